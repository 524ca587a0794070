"""Draws the learning curves of one or more runs.

    python experiments/plot.py runs/demo --out=curve.png
    python experiments/plot.py runs/grpo runs/dapo --out=compare.png
"""

import argparse
import sys

from policyopt.training import curves


def main(argv=None):
  """Draws; ends with one clear line when a run cannot be drawn."""
  parser = argparse.ArgumentParser(
      description='Draws the learning curves of one or more runs.')
  parser.add_argument(
      'runs', nargs='+', metavar='RUN', help='folder with a metrics.jsonl')
  parser.add_argument('--out', default='curve.png', help='the .png to write')
  options = parser.parse_args(argv)
  try:
    curves.plot(options.runs, options.out)
  except (OSError, ValueError) as error:
    sys.exit(f'plot.py: {error}')
  print(options.out)


if __name__ == '__main__':
  main()
