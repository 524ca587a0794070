"""Records as problems: fields, filters, splits, and what is wrong with them."""

import json

import numpy as np
import pytest

from policyopt.data import Fields, InMemory, JsonLines, Problems, split_of

FIELDS = Fields('problem', 'answer', 'solution', 'id')


def rows(count=40):
  return [dict(problem=f'What is {i} + 1?', answer=float(i + 1), level=i % 3,
               solution=f'\\boxed{{{i + 1}}}', id=i) for i in range(count)]


def problems(records=None, fields=FIELDS, **kwargs):
  return Problems(InMemory(rows() if records is None else records), fields,
                  **kwargs)


def test_fields_by_name():
  problem = problems()[3]
  assert problem.question == 'What is 3 + 1?' and problem.id == '3'
  # JSON gave it a '.0'.
  assert problem.answer == '4' and problem.solution == '\\boxed{4}'
  assert problem.where == 'data record 4'
  other = problems(fields=Fields('problem', 'solution'))[3]
  assert other.answer == '\\boxed{4}' and other.solution is None
  assert other.id == '3'


def test_halves_keep_their_digits():
  assert problems([dict(rows(1)[0], answer=0.5)])[0].answer == '0.5'


@pytest.mark.parametrize('where, wanted', [
    ({'level': 1}, {1}), ({'level': [1, 2]}, {1, 2}), ({'level': (0,)}, {0})])
def test_filters(where, wanted):
  found = problems(where=where)
  assert {int(p.id) % 3 for p in found} == wanted
  assert len(found) == sum(i % 3 in wanted for i in range(40))
  assert len(problems(keep=lambda row: row['id'] < 5)) == 5
  assert [p.id for p in found.take([1, 0])] == [found[1].id, found[0].id]


def test_splits_share_no_question_and_do_not_depend_on_the_order():
  train, test = (problems(split=split, held_out=0.25)
                 for split in ('train', 'test'))
  names = [{p.question for p in part} for part in (train, test)]
  assert not names[0] & names[1] and len(names[0] | names[1]) == 40
  assert 3 < len(test) < 20
  again = problems(rows()[::-1], split='test', held_out=0.25)
  assert {p.question for p in again} == names[1]
  # More held out: none that was held out comes back.
  more = problems(split='test', held_out=0.5)
  assert names[1] < {p.question for p in more}


def test_the_share_of_a_split():
  texts = [f'question {i}' for i in range(4000)]
  share = np.mean([split_of(text, 0.125) == 'test' for text in texts])
  assert abs(share - 0.125) < 0.02
  assert {split_of(t, 0.) for t in texts} == {'train'}
  assert {split_of(t, 1.) for t in texts} == {'test'}
  assert split_of(' question 1\n', 0.125) == split_of('question 1', 0.125)


def changed(index, **changes):
  records = rows(5)
  records[index] = {
      k: v for k, v in (records[index] | changes).items() if v != 'gone'}
  return records


@pytest.mark.parametrize('records, message', [
    (changed(2, answer='gone'), "record 3 has no field 'answer'; it has id, "),
    (changed(2, problem=' '), "record 3: the field 'problem' is empty"),
    (changed(1, answer=None), "record 2: the field 'answer' holds a NoneType"),
    (changed(1, answer=['1']), "record 2: the field 'answer' holds a list"),
    (changed(1, answer=True), "record 2: the field 'answer' holds a bool"),
    (changed(4, id=2), "record 5 has the id '2' of data record 3"),
    (changed(4, id='gone'), "record 5 has no field 'id'")])
def test_bad_records_are_named(records, message):
  with pytest.raises(ValueError, match=message) as caught:
    problems(records)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('kwargs, message', [
    (dict(where={'levl': 1}), "record 1 has no field 'levl'"),
    (dict(where={'level': 7}), 'none of the 40 records'),
    (dict(split='dev'), "split is 'dev'"), (dict(held_out=2.), 'held_out is 2'),
    (dict(split='test', held_out=0.), 'is left in the test part')])
def test_bad_arguments(kwargs, message):
  with pytest.raises(ValueError, match=message):
    problems(**kwargs)


def test_only_what_is_asked_for_is_read(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('\n'.join(json.dumps(row) for row in rows()))
  source = JsonLines(str(path))
  found = Problems(source, FIELDS)
  read = []
  take = type(source).__getitem__

  class Watched(JsonLines):

    def __getitem__(self, index):
      read.append(index)
      return take(self, index)

  found._source = Watched(str(path))
  # What a process of two would ask for.
  part = found.take(np.arange(1, 40, 2))
  assert [part[i].id for i in (0, 2)] == ['1', '5']
  assert read == [1, 5]
  found.close()
