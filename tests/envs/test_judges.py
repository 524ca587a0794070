"""Judges of mathematical answers, in their own processes where it matters."""

import subprocess
import sys

import pytest

from policyopt.envs import forms, judges, verifiers
from policyopt.envs.math import SCORER

MATH = judges.judge_math()
VECTOR = r'\begin{pmatrix} 1 \\ 2 \end{pmatrix}'


def box(answer):
  return f'So it is \\boxed{{{answer}}}.'


@pytest.mark.parametrize('answer, reference', [
    ('0.5', r'\frac{1}{2}'), ('1/2', r'\frac12'), (r'\frac{2}{4}', '0.5'),
    ('10080', r'10,\!080'), (r'\$32,348', r'\$32,\!348'), ('1,000', '1000'),
    ('5, 3, 7', '3, 5, 7'), (r'\{2, 1\}', r'\{1, 2\}'), ('(-2, 1)', '(-2,1)'),
    ('50', r'50\%'), ('x=5', '5'), ('5', 'x=5'), (r'5.4\text{ cents}', '5.4'),
    ('12', r'12\text{ cm}^2'), (r'90^\circ', '90'), ('Eve', r'\text{Eve}'),
    ('C', r'\text{(C)}'), (r'x \in (2,\infty)', r'(2,\infty)'),
    (r'[0,1) \cup (1,2]', r'[0, 1)\cup(1, 2]'), (r'\sqrt{8}', r'2\sqrt2'),
    ('x^2+2x+1', '(x+1)^2'), (r'4.5\times 10^{33}', '4.5e33'),
    (r'\arcsin(10/13)', 'np.arcsin(10/13)'), ('-1.5', '-3./2'), ('73', '073'),
    (VECTOR.replace(' ', ''), VECTOR),
    (r'6 + 9i', '9i+6'), (r'11\frac{1}{2}', r'\frac{23}{2}')])
def test_equal_answers(answer, reference):
  score, found = MATH(box(answer), reference)
  assert score == 1.
  # All right answers are one answer.
  assert found == MATH(box(reference), reference)[1]


@pytest.mark.parametrize('answer, reference', [
    ('(1, -2)', '(-2,1)'), ('3, 5', '3, 5, 7'), (r'[2,\infty)', r'(2,\infty)'),
    ('D', r'\text{(C)}'), ('3.14', r'\pi'), ('x^2+2x', '(x+1)^2'),
    (VECTOR.replace('2', '3'), VECTOR),
    ('odd', r'\text{even}'), ('q-p', 'p-q'), ('1001', '1000'), ('-5', '5'),
    ('5' * 1000, '5'), ('', '5')])
def test_other_answers(answer, reference):
  assert MATH(box(answer), reference)[0] == 0.


def test_where_the_answer_stands():
  assert MATH(r'\boxed{1}, no: \boxed{2}', '2')[0] == 1.
  assert MATH(r'\boxed{2}, no: \boxed{1}', '2')[0] == 0.
  assert MATH('The final answer is $2$.', '2')[0] == 1.
  strict = judges.judge_math(strict=True)
  assert strict('The final answer is $2$.', '2') == (0., '')
  assert strict(r'\boxed{2', '2') == (0., '')
  tags = judges.judge_math(find='tags', strict=True)
  assert tags(r'<answer>\frac{4}{2}</answer>', '2')[0] == 1.
  assert tags(r'<answer>\boxed{2}</answer>', '2')[0] == 1.
  assert tags(r'\boxed{2}', '2') == (0., '')
  with pytest.raises(ValueError, match="unknown place of the answer 'tag'"):
    judges.judge_math(find='tag')


def test_wrong_answers_that_are_alike_share_a_form():
  forms = [MATH(box(a), '5')[1] for a in (r'\frac12', r'\frac{1}{2}', '3', '')]
  assert forms[0] == forms[1] != forms[2] and '' not in forms[:3]
  assert forms[3] == ''


def test_a_tolerance():
  close = judges.judge_math(rel_tol=1e-2)
  assert close(box('1.61'), '1.6')[0] == 1. == close(box('5e9'), '4.99e9')[0]
  assert close(box('1.7'), '1.6')[0] == 0. == MATH(box('1.61'), '1.6')[0]
  assert close(box(r'\text{no}'), '1.6')[0] == 0.


def test_only_mathematics():
  judge = judges.judge_math(text=False)
  assert judge(box(r'\frac12'), r'\frac{1}{2}')[0] == 1.
  assert judge(box('E_{1},E_{2}'), 'E_{1},E_{2}')[0] == 0.


@pytest.mark.parametrize('name, response, reference, score', [
    ('gsm8k', '6*7=42\n#### 42', '42', 1.), ('gsm8k', '42', '42', 0.),
    ('gsm8k', '#### 1,000.0', '1000', 1.), ('gsm8k', '#### 41', '42', 0.),
    ('gsm8k_flexible', 'so 42 dollars', '42', 1.),
    ('gsm8k_flexible', '42 or 43', '42', 0.), ('gsm8k_flexible', '', '42', 0.),
    ('math', r'\boxed{42}', '42', 1.), ('math_strict', '$42$', '42', 0.),
    ('math_tags', '<answer>42</answer>', '42', 1.),
    ('exact', ' Paris', 'paris', 1.), ('exact', 'in Paris', 'paris', 0.)])
def test_verifiers_by_name(name, response, reference, score):
  judge = judges.verifier(name).make()
  assert judge(response, reference)[0] == score


@pytest.mark.parametrize('name', sorted(judges.VERIFIERS))
def test_a_reference_written_as_asked_is_right(name):
  verifier = judges.verifier(name)
  reference = verifier.reference('42')
  response = verifier.final.replace('{answer}', reference)
  assert verifier.make()(response, reference)[0] == 1.
  assert '{question}' in verifier.ask
  if verifier.find is not None:
    assert verifier.find(response) == reference


def test_other_peoples_judges():
  score = judges.make_scorer('operator:eq')
  assert score('a', 'a') == (1., 1., '') and score('a', 'b')[0] == 0.
  for name, message in (('gsm9k', "did you mean 'gsm8k'"),
                        ('operator:', "'module:function'")):
    with pytest.raises(ValueError, match=message):
      judges.verifier(name)


@pytest.mark.parametrize('form, right, wrong', [
    ('boxed', [r'so \boxed{1}', 'a\n\\boxed{1}.'], ['1', r'\boxed{}']),
    ('hashes', ['6*7\n#### 42'], ['42', '#### 1 #### 2', '#### 4\nmore']),
    ('think', ['<think>a\nb</think>4'],
     ['4', '<think>a', 'x<think>a</think>4', '<think>a</think>',
      '<think><think>a</think>4']),
    ('think_answer', ['<think>a</think>\n<answer>4</answer>'],
     ['<think>a</think>4', '<answer>4</answer>',
      '<think>a</think><answer>4</answer> and',
      '<think>a</think><answer>4</answer><answer>5</answer>']),
    (r'\d+', ['42', ' 42\n'], ['42!', ''])])
def test_forms(form, right, wrong):
  score = judges.make_scorer('exact', form=form)
  assert [score(text, '')[1] for text in right] == [1.] * len(right)
  assert [score(text, '')[1] for text in wrong] == [0.] * len(wrong)


@pytest.mark.parametrize('form, message', [
    ('boxd', "unknown format 'boxd': did you mean 'boxed'"),
    ('(', 'no regular expression')])
def test_wrong_forms(form, message):
  with pytest.raises(ValueError, match=message):
    forms.pattern(form)


def test_a_judge_that_hangs_is_ended_and_the_others_are_not_harmed():
  rows = [(box('1'), '1'), (box('9^{9^{9^{9^{9}}}}'), '1'), (box('2'), '2')]
  with verifiers.VerifierPool(
      SCORER, dict(name='math'), workers=1, timeout_s=3.,
      memory_gb=4.) as pool:
    verdicts, values = pool.map(rows)
    assert verdicts[0] == verdicts[2] == 0
    assert values[0][0] == values[2][0] == 1.
    # It is either refused at once or ended; it never counts as right.
    assert verdicts[1] or values[1][0] == 0.


def test_verifier_processes_do_not_import_jax():
  program = ('import sys; from policyopt.envs import judges; '
             'judges.make_scorer("math")("1", "1"); '
             'assert "jax" not in sys.modules')
  subprocess.run(
      [sys.executable, '-c', program], check=True, timeout=120,
      env={'PYTHONPATH': ':'.join(sys.path)})
