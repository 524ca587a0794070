"""Final answers in texts."""

import pytest

from policyopt.envs import answers


@pytest.mark.parametrize('text, found', [
    ('#### 72', '72'), ('2+2\n#### 4', '4'), ('####4', '4'),
    ('#### 1,234', '1234'), ('#### $1,234.50', '1234.5'), ('#### -7', '-7'),
    ('#### $-7', '-7'), ('#### -$7', '-7'), ('#### 18.', '18'),
    ('#### 18.0', '18'), ('#### .5', '0.5'), ('#### 50%', '50'),
    ('#### 12 apples', '12'), ('#### 12 apples.', '12'), ('#### 007', '7'),
    ('#### 3\nQuestion: next one 5', '3'), ('#### 1\n#### 2', '2'),
    ('#### 3 or 4', None), ('#### 3 4', None), ('#### two', None),
    ('####', None), ('72', None), ('', None), ('#### x = 3', None),
    ('the answer is 5 ####', None)])
def test_the_number_after_hashes(text, found):
  assert answers.hashes_number(text) == found


@pytest.mark.parametrize('text, found', [
    ('She pays 3 and then 5.', '5'), ('It costs $1,200.', '1200'),
    ('no number', None), ('-3', '-3'), ('5 - 3', '-3'), ('#### 72', '72'),
    ('x2', '2'), ('3.50 dollars', '3.5'), ('1.2.', '1.2')])
def test_the_last_number(text, found):
  assert answers.last_number(text) == found


@pytest.mark.parametrize('text, found', [
    ('1,000', '1000'), ('0.0', '0'), ('-0', '0'), ('--3', '3'), ('+3', '3'),
    ('3.', '3'), ('1e3', None), ('a', None), ('', None), ('1/2', None),
    ('123456789012345678901234567890.10', '123456789012345678901234567890.1')])
def test_one_form_of_a_number(text, found):
  assert answers.number(text) == found


@pytest.mark.parametrize('text, found', [
    (r'\boxed{1}', '1'), (r'\boxed{1} and \boxed{2}', '2'),
    (r'\boxed{\frac{1}{2}}', r'\frac{1}{2}'), (r'\boxed {x}', 'x'),
    (r'\boxed{\{1, 2\}}', r'\{1, 2\}'), (r'\boxed{\left\{ 3 \right\}}',
                                        r'\left\{ 3 \right\}'),
    (r'\boxed{a\\}', r'a\\'), (r'\boxed{1', None), (r'\boxed{}', None),
    (r'\boxed{{{}}', None), (r'\boxed 5', '5'), (r'\fbox{7}', '7'),
    (r'\framebox{204}', '204'), (r'\boxed{1} \boxed{2', None),
    (r'\boxedx{1}', None), ('', None)])
def test_the_last_box(text, found):
  assert answers.boxed(text) == found


@pytest.mark.parametrize('text, found', [
    ('<answer>4</answer>', '4'), ('<answer>\n 4 \n</answer> ok', '4'),
    ('<answer>1</answer><answer>2</answer>', '2'), ('<answer>1', None),
    ('<answer> </answer>', None)])
def test_tags(text, found):
  assert answers.tagged(text) == found


@pytest.mark.parametrize('one, other, same', [
    (r'\left(3, \frac{\pi}{2}\right)', r'(3,\dfrac{\pi}{2})', True),
    (r'\text{Evelyn}', 'Evelyn', True), ('Evelyn', 'EVELYN', True),
    (r'\text{(C)}', 'C', True), (r'\textbf{(073)}', '073', True),
    ('x', 'X', False), ('C', 'D', False), (r'10\%', '10%', True),
    (r'90^\circ', '90', True), (r'\$5', '5', True), ('5.', '5', True),
    (r'10,\!080', '10,080', True), (r'\leftarrow', 'arrow', False),
    ('ab', 'a b', True), ('12', '21', False)])
def test_plain_forms(one, other, same):
  assert (answers.plain(one) == answers.plain(other)) == same


def test_calculator_notes_go():
  assert answers.without_annotations('2*3=<<2*3=6>>6 $<<1+1=2>>2') == (
      '2*3=6 $2')
