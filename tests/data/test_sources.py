"""Records by number, and what is wrong with a file in one line."""

import json
import pickle
import threading

import pytest

from policyopt.data.sources import InMemory, JsonLines

ROWS = [{'question': f'{i} + {i}?', 'answer': f'é {2 * i}'} for i in range(9)]


def write(path, rows=ROWS, end='\n'):
  lines = [json.dumps(row, ensure_ascii=False) for row in rows]
  path.write_text('\n'.join(lines) + end, encoding='utf-8')
  return str(path)


@pytest.mark.parametrize('end', ['\n', ''])
def test_records_in_any_order(tmp_path, end):
  source = JsonLines(write(tmp_path / 'a.jsonl', end=end))
  assert len(source) == len(ROWS) and list(source) == ROWS
  assert [source[i] for i in (8, 0, 3, 3)] == [ROWS[i] for i in (8, 0, 3, 3)]
  assert source[-1] == ROWS[-1]
  assert source.where(2) == f'{tmp_path}/a.jsonl line 3'
  with pytest.raises(IndexError):
    print(source[9])
  source.close()
  assert source[1] == ROWS[1]


def test_threads_and_other_processes_read_alike(tmp_path):
  source = JsonLines(write(tmp_path / 'a.jsonl'))
  print(source[0])  # Opens the file, which does not travel.
  assert pickle.loads(pickle.dumps(source))[5] == ROWS[5]
  wrong = []
  def read():
    for i in list(range(9)) * 50:
      if source[i] != ROWS[i]:
        wrong.append(i)
  threads = [threading.Thread(target=read) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  assert not wrong


@pytest.mark.parametrize('content, message', [
    ('', r'a\.jsonl is empty$'),
    ('{"a": 1}\n\n{"a": 2}\n', r'line 2 is empty$'),
    ('{"a": 1}\n{"a": 2}\n \n', r'line 3 is empty$'),
    ('{"a": 1}\n{"a": }\n', r'line 2 is not JSON: Expecting value at column 7'),
    ('{"a": 1}\n{"a": 2\n', r'line 2 is not JSON'),
    ('[1, 2]\n', r'line 1 holds a list, but must hold a JSON object'),
    ('{"a": 1}\n"b"\n', r'line 2 holds a str')])
def test_a_bad_line_is_named(tmp_path, content, message):
  (tmp_path / 'a.jsonl').write_text(content)
  with pytest.raises(ValueError, match=message) as caught:
    JsonLines(str(tmp_path / 'a.jsonl'))
  assert '\n' not in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path):
  (tmp_path / 'a.jsonl').write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
  with pytest.raises(ValueError, match='line 2 is not JSON'):
    JsonLines(str(tmp_path / 'a.jsonl'))


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'b\.jsonl cannot be read: No such'):
    JsonLines(str(tmp_path / 'b.jsonl'))
  with pytest.raises(ValueError, match='cannot be read: Is a directory'):
    JsonLines(str(tmp_path))


def test_records_that_are_there():
  source = InMemory([{'q': b'caf\xc3\xa9', 'n': 3}], 'own')
  assert source[0] == {'q': 'café', 'n': 3} and len(source) == 1
  assert source.where(0) == 'own record 1'
  with pytest.raises(ValueError, match='own holds no records'):
    InMemory([], 'own')
