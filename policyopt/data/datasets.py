"""Data sets of `tensorflow_datasets`, read and written without TensorFlow.

Both need the array_record format, whose records can be read in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os

from policyopt.data.sources import InMemory, Record

_FORMAT = 'array_record'


def tfds_source(name: str, split: str, path: str | None = None) -> InMemory:
  """A split of a prepared data set.

  Nothing is downloaded or generated here: `tfds build`, or `write_tfds`, does
  that once, with `file_format='array_record'`.

  Args:
    name: registered name, with a config and version if wanted:
      'name/config:1.0.0'.
    split: name of the split; slices such as 'train[:90%]' are allowed.
    path: the `data_dir` that holds the data set, or the folder of its
      version; None for the package's own default.

  Returns:
    A source of dicts, with text as str.

  Raises:
    ImportError: without the package.
    ValueError: in one line, when the data set, its split or the format is not
      there.
  """
  builder = _builder(name, path)
  whole = split.split('[')[0]
  if whole not in builder.info.splits:
    raise ValueError(
        f'tfds:{name} has no split {whole!r}; it has '
        f'{", ".join(sorted(builder.info.splits))}')
  try:
    records = builder.as_data_source(split=split)
  except (NotImplementedError, ValueError) as error:
    raise ValueError(
        f'tfds:{name} in {builder.data_dir} cannot be read at random: prepare '
        f'it with file_format={_FORMAT!r} ({_first_line(error)})') from error
  return InMemory(records, f'tfds:{name} {split}')


def tfds_splits(name: str, path: str | None = None) -> list[str]:
  """The names of a prepared data set's splits, sorted.

  Args:
    name: as for `tfds_source`.
    path: as for `tfds_source`.

  Raises:
    ValueError: when there is no such data set.
  """
  return sorted(_builder(name, path).info.splits)


def write_tfds(
    path: str, name: str, splits: Mapping[str, Sequence[Record]], *,
    fields: Sequence[str], version: str = '1.0.0',
    description: str = 'Problems with answers.') -> str:
  """Writes records as a data set that `tfds_source` and `tfds` itself read.

  Args:
    path: the `data_dir` under which it is made.
    name: of the data set, in lower case with underscores.
    splits: split name -> records.
    fields: of the records that are kept; all of them text.
    version: 'MAJOR.MINOR.PATCH'.
    description: for the data set's own files.

  Returns:
    The folder of the version.

  Raises:
    ImportError: without the package.
    ValueError: for a name that `tfds` would not find again, or a record that
      lacks a field.
  """
  tfds = _require()
  if not name.isidentifier() or name != name.lower():
    raise ValueError(
        f'name is {name!r}; it must be lower case with underscores')

  class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Copies records."""
    VERSION = tfds.core.Version(version)
    # Of no file: the library need not look for metadata beside the code, with
    # a package (importlib_resources) that it does not install.
    __module__ = 'policyopt_problems'

    def _info(self):
      return tfds.core.DatasetInfo(
          builder=self, description=description,
          features=tfds.features.FeaturesDict(
              {field: tfds.features.Text() for field in fields}))

    def _split_generators(self, dl_manager):
      del dl_manager
      return {split: self._generate_examples(records)
              for split, records in splits.items()}

    def _generate_examples(self, records):
      for index, record in enumerate(records):
        missing = [field for field in fields if field not in record]
        if missing:
          raise ValueError(
              f'record {index + 1} has no field {missing[0]!r}; it has '
              f'{", ".join(sorted(record))}')
        yield index, {field: str(record[field]) for field in fields}

  Records.name = name
  builder = Records(
      data_dir=os.path.abspath(os.path.expanduser(path)),
      file_format=_FORMAT)
  builder.download_and_prepare()
  return str(builder.data_dir)


def _builder(name: str, path: str | None):
  tfds = _require()
  if path is not None:
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isdir(path):
      raise ValueError(f'tfds:{name}: the folder {path} does not exist')
  try:
    if path and os.path.exists(os.path.join(path, 'dataset_info.json')):
      return tfds.builder_from_directory(path)
    return tfds.core.read_only_builder.builder_from_files(name, data_dir=path)
  except Exception as error:  # The package raises classes of its own.
    raise ValueError(
        f'tfds:{name} is not in {path or "the default data_dir"}: '
        f'{_first_line(error)}') from error


def _first_line(error: Exception) -> str:
  return str(error).strip().split('\n')[0] or type(error).__name__


def _require():
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise ImportError(
        'this data set needs the tensorflow_datasets package: '
        "pip install 'policyopt[train]'") from error
  return tensorflow_datasets
