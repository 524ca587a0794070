"""Data sets of tfds: written and read here, without TensorFlow."""

import os
import subprocess
import sys
import textwrap

import pytest

from policyopt.data import Fields, Problems, datasets

FIELDS = ('question', 'answer')
SPLITS = {
    'train': [dict(question=f'{i} + {i} = ?', answer=f'é\n#### {2 * i}', n=i)
              for i in range(30)],
    'test': [dict(question=f'{i} - {i} = ?', answer='#### 0')
             for i in range(5)]}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('data')
  # In a process of its own, as the library leaves threads and handlers.
  program = textwrap.dedent(f"""
      import sys
      from policyopt.data import datasets
      datasets.write_tfds({str(path)!r}, 'sums', {SPLITS!r}, fields={FIELDS!r})
      assert 'tensorflow' not in sys.modules
      """)
  subprocess.run(
      [sys.executable, '-c', program], check=True, timeout=300,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
  return str(path)


pytestmark = pytest.mark.filterwarnings('ignore')


def test_what_was_written_is_read(folder):
  assert datasets.tfds_splits('sums', folder) == ['test', 'train']
  source = datasets.tfds_source('sums', 'train', folder)
  # The library shuffles once when it writes.
  key = lambda row: row['question']
  assert sorted(source, key=key) == sorted(
      ({f: row[f] for f in FIELDS} for row in SPLITS['train']), key=key)
  assert source[7] == source[7] != source[8]
  assert source.where(0) == 'tfds:sums train record 1'
  version = os.path.join(folder, 'sums', '1.0.0')
  assert list(datasets.tfds_source('sums', 'test', version)) == list(
      datasets.tfds_source('sums', 'test', folder))
  half = datasets.tfds_source('sums', 'train[:50%]', folder)
  assert len(half) == 15


def test_problems_of_it(folder):
  problems = Problems(
      datasets.tfds_source('sums', 'test', folder), Fields(*FIELDS))
  assert len(problems) == 5 and problems[0].answer == '#### 0'


def test_reading_needs_no_tensorflow(folder):
  program = textwrap.dedent(f"""
      import sys
      from policyopt.data import tfds_source
      source = tfds_source('sums', 'test', {folder!r})
      print(len(source), source[0]['answer'])
      assert 'tensorflow' not in sys.modules
      """)
  out = subprocess.run(
      [sys.executable, '-c', program], check=True, timeout=300, text=True,
      stdout=subprocess.PIPE,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}).stdout
  assert out.strip() == '5 #### 0'


@pytest.mark.parametrize('name, split, message', [
    ('sums', 'dev', "tfds:sums has no split 'dev'; it has test, train"),
    ('products', 'train', 'tfds:products is not in /')])
def test_what_is_not_there_is_named(folder, name, split, message):
  with pytest.raises(ValueError, match=message) as caught:
    datasets.tfds_source(name, split, folder)
  assert '\n' not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(ValueError, match='nowhere does not exist'):
    datasets.tfds_source('sums', 'train', str(tmp_path / 'nowhere'))


@pytest.mark.parametrize('name, fields, message', [
    ('Sums', FIELDS, "name is 'Sums'"),
    ('sums', ('question', 'target'), "record 1 has no field 'target'")])
def test_what_cannot_be_written_is_named(tmp_path, name, fields, message):
  with pytest.raises(ValueError, match=message):
    datasets.write_tfds(str(tmp_path), name, SPLITS, fields=fields)
