"""What is known of a program before it runs: counted, read, ranked, told."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.aot import (
    analysis,
    chips,
    flops,
    hlo,
    memory,
    page,
    report,
    roofline,
    shapes,
    sweep,
    topologies,
)

GIB = 2**30


def counted(fn, *shapes, trips=None):
  shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return flops.count(jax.make_jaxpr(fn)(*shapes), trips)


# --- FLOPs -----------------------------------------------------------------


def test_a_product_is_two_flops_per_term():
  found = counted(lambda a, b: a @ b, (3, 5), (5, 7))
  assert found.flops == 2 * 3 * 5 * 7
  assert found.bytes == 4 * (3 * 5 + 5 * 7 + 3 * 7)


def test_batched_products():
  found = counted(lambda a, b: jnp.einsum('bij,bkj->bik', a, b),
                  (2, 3, 5), (2, 7, 5))
  assert found.flops == 2 * 2 * 3 * 7 * 5


def test_a_scan_counts_as_often_as_it_runs():
  def fn(x, w):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

  assert counted(fn, (4, 4), (6, 4, 4)).flops == 6 * 2 * 4**3


def test_nested_scans_multiply():
  def inner(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, length=3)[0]

  def fn(x):
    return jax.lax.scan(lambda x, _: (inner(x), None), x, length=5)[0]

  assert counted(fn, (4, 4)).flops == 15 * 2 * 4**3


def test_a_gradient_is_two_more_products_and_remat_a_third():
  def loss(w, x, again):
    layer = lambda w, x: jnp.sin(x @ w)
    layer = jax.checkpoint(layer) if again else layer
    # The gradient of x is wanted too, as inside of a network.
    return jnp.sum(layer(w, x))

  one = 2 * 3 * 4 * 5
  plain = counted(jax.grad(lambda w, x: loss(w, x, False), (0, 1)),
                  (4, 5), (3, 4))
  remat = counted(jax.grad(lambda w, x: loss(w, x, True), (0, 1)),
                  (4, 5), (3, 4))
  assert (plain.flops, remat.flops) == (3 * one, 4 * one)


def test_a_while_loop_counts_as_often_as_it_may():
  def fn(x):
    return jax.lax.while_loop(
        lambda c: (c[0] < 9) & (c[1].sum() < 1e9),
        lambda c: (c[0] + 1, c[1] @ c[1]), (0, x))[1]

  assert counted(fn, (4, 4), trips=9).flops == 9 * 2 * 4**3
  once = counted(fn, (4, 4))
  assert once.flops == 2 * 4**3 and once.unbounded == 1


def test_the_most_expensive_branch_counts():
  def fn(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

  assert counted(fn, (4, 4)).flops == 2 * 2 * 4**3


def test_shards_of_a_mapped_function_add_up():
  mesh = jax.make_mesh((8,), ('x',), axis_types=(
      jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec('x')
  fn = jax.shard_map(lambda x, y: x @ y, mesh=mesh,
                     in_specs=(spec, jax.sharding.PartitionSpec()),
                     out_specs=spec)
  assert counted(fn, (16, 4), (4, 5)).flops == 2 * 16 * 4 * 5


def test_rows_of_a_ragged_product_meet_one_matrix_each():
  def fn(x, w):
    return jax.lax.ragged_dot(x, w, jnp.array([3, 5], jnp.int32))

  assert counted(fn, (8, 4), (2, 4, 6)).flops == 2 * 8 * 4 * 6


def test_a_decoder_is_counted_as_by_hand():
  from policyopt.models import presets, scoring, transformer
  model = presets.preset('nano', attention='xla')
  batch, length = 2, 16
  jaxpr = jax.make_jaxpr(
      lambda params, tokens: scoring.score(model, params, tokens).log_probs)(
          transformer.abstract_params(model),
          jax.ShapeDtypeStruct((batch, length), jnp.int32))
  tokens, width = batch * length, model.width
  heads = model.num_heads * model.head_dim
  projections = width * (2 * heads + 2 * model.num_kv_heads * model.head_dim)
  layer = projections + 3 * width * model.mlp_width + 2 * length * heads
  by_hand = 2 * tokens * (
      model.num_layers * layer + width * model.vocab_size)
  assert flops.count(jaxpr).flops == by_hand


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (1, 2, 2, 1)])
def test_the_kernels_of_the_loss_head_are_counted(shape):
  """One product forward and four backward: logits are made twice there."""
  from policyopt.models import head_kernels, partitioning, presets
  model = presets.preset('nano', width=128, vocab_size=1024)

  def fn(hidden, embedding):
    return jnp.sum(head_kernels.head(
        model, {'embedding': embedding}, hidden,
        jnp.zeros((4, 512), jnp.int32))['log_probs'])

  mesh = partitioning.make_mesh(shape, jax.devices()[:np.prod(shape)])
  product = 2 * 2048 * 1024 * 128
  with jax.set_mesh(mesh):
    found = [counted(run, (4, 512, 128), (1024, 128))
             for run in (fn, jax.grad(fn, (0, 1)))]
  assert [x.flops for x in found] == [product, 5 * product]
  assert [x.kernel_flops for x in found] == [product, 5 * product]
  # The table is read for every block of rows, which are 1024 at most.
  assert found[0].bytes >= 4 * (2048 * 128 + 2 * 1024 * 128)


def test_the_largest_results_are_listed():
  def fn(x):
    return (x[:, None] * x[None]).sum()

  jaxpr = jax.make_jaxpr(fn)(jnp.ones(16))
  size, shape, source = flops.largest(jaxpr, 1, 4)[0]
  assert (size, shape, source) == (16 * 16 * 4 / 4, 'float32[16,16]', 'mul')


# --- the text of a compiled program ------------------------------------------

TEXT = """HloModule jit_f, is_scheduled=true

%fused (p0: bf16[32,64,128], p1: s32[]) -> bf16[1,64,128] {
  %p0 = bf16[32,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  ROOT %ds = bf16[1,64,128]{2,1,0} dynamic-slice(%p0, %p1),\
 dynamic_slice_sizes={1,64,128}
}

%body (arg: (s32[], bf16[32,64,128])) -> (s32[], bf16[32,64,128]) {
  %arg = (s32[]{:T(128)}, /*index=1*/bf16[32,64,128]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %w = bf16[32,64,128]{2,1,0} get-tuple-element(%arg), index=1
  %slice = bf16[1,64,128]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%fused
  %all-gather.1 = bf16[1,256,128]{2,1,0} all-gather(%slice), channel_id=1,\
 replica_groups=[2,4]<=[8], dimensions={1}, metadata={op_name="layers/dot"}
  %small = f32[2,8]{1,0:T(8,128)S(1)} custom-call(%all-gather.1),\
 custom_call_target="x"
  ROOT %t = (s32[], bf16[32,64,128]{2,1,0}) tuple(%i, %w)
}

%cond (arg.1: (s32[], bf16[32,64,128])) -> pred[] {
  %arg.1 = (s32[], bf16[32,64,128]{2,1,0}) parameter(0)
  %n = s32[] constant(32)
  %j = s32[] get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[] compare(%j, %n), direction=LT
}

ENTRY %main (x: bf16[32,64,128]) -> f32[128] {
  %x = bf16[32,64,128]{2,1,0} parameter(0)
  %zero = s32[] constant(0)
  %init = (s32[], bf16[32,64,128]{2,1,0}) tuple(%zero, %x)
  %loop = (s32[], bf16[32,64,128]{2,1,0}) while(%init), condition=%cond,\
 body=%body, metadata={op_name="scan"}
  %made = f32[128]{0} custom-call(%loop), custom_call_target="y"
  ROOT %all-reduce.1 = f32[128]{0} all-reduce(%made),\
 replica_groups=mesh['a'=2,'b'=4] {'a'}, to_apply=%add
}
"""


def test_collectives_count_as_often_as_their_loop_runs():
  gather, reduce = hlo.Module(TEXT).collectives()
  assert (gather.kind, gather.bytes, gather.group, gather.times) == (
      'all-gather', 256 * 128 * 2, 4, 32)
  assert gather.members == (0, 1, 2, 3) and gather.source == 'layers/dot'
  assert gather.moved == 256 * 128 * 2 * 3 / 4
  assert (reduce.kind, reduce.bytes, reduce.times) == ('all-reduce', 512, 1)
  assert reduce.members == (0, 4)


def test_a_kernel_that_is_given_all_layers_reads_what_it_says():
  told = TEXT.replace('custom_call_target="y"', 'custom_call_target="y",\
 backend_config={"cost_estimate":{"flops":"7","bytes_accessed":"1024"}}')
  # All that the loop returns, with its counter, and the result.
  whole = 32 * 64 * 128 * 2 + 4 + 512
  assert hlo.Module(TEXT).bytes() - hlo.Module(told).bytes() == whole - 1024
  # And one that reads what it is given many times says that too.
  told = told.replace('"1024"', '"99999999"')
  assert hlo.Module(told).bytes() - hlo.Module(TEXT).bytes() == (
      99999999 - whole)


def test_weights_that_are_read_in_other_tiles_are_still_cut_first():
  # As XLA writes the product with one layer of int8.
  cut = 'ROOT %ds = bf16[1,64,128]{2,1,0} dynamic-slice('
  tiled = TEXT.replace(f'{cut}%p0', """%q = bf16[32,64,128]{2,1,0}\
 fusion(%p0), kind=kLoop, calls=%tiles
  """ + f'{cut}%q').replace('%fused (', """%tiles (p2: bf16[32,64,128])\
 -> bf16[32,64,128] {
  %p2 = bf16[32,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %copy = bf16[32,64,128]{2,1,0:T(32,128)(4,1)} copy(%p2)
}

%fused (""")
  assert tiled.count('%tiles') == 2 and tiled.count('%q') == 2
  assert hlo.Module(tiled).bytes() == hlo.Module(TEXT).bytes()


def test_traffic_counts_slices_and_not_what_they_are_cut_from():
  piece, whole = 64 * 128 * 2, 256 * 128 * 2
  # The slice is read and written; index and small vector come on top, and
  # what lies in the chip's own memory does not count.
  body = (2 * piece + 4) + (piece + whole) + whole
  cond = 1 + 4 + 4
  rest = 32 * piece + 4 + 512 + 2 * 512
  assert hlo.Module(TEXT).bytes() == 32 * (body + cond) + rest


def test_loops_without_a_bound_take_the_one_given():
  text = TEXT.replace('direction=LT', 'direction=NE')
  assert hlo.Module(text, trips=7).collectives()[0].times == 7


def test_what_the_compiler_says_of_a_loop_comes_first():
  text = TEXT.replace('body=%body,', 'body=%body, backend_config='
                      '{"known_trip_count":{"n":"5"}},')
  assert hlo.Module(text).collectives()[0].times == 5


@pytest.mark.parametrize('groups, members', [
    ('replica_groups=[2,4]<=[8]', (0, 1, 2, 3)),
    ('replica_groups=[4,2]<=[2,4]T(1,0)', (0, 4)),
    ('replica_groups={{1,3},{0,2}}', (1, 3)),
    ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
    ("replica_groups=mesh['a'=8] {'a':(1)2}", (0, 4)),
    ("replica_groups=mesh['a'=8] {'a':(2)4}", (0, 1, 2, 3))])
def test_groups_are_read_in_every_form(groups, members):
  text = TEXT.replace("replica_groups=mesh['a'=2,'b'=4] {'a'}", groups)
  found = [c for c in hlo.Module(text).collectives()
           if c.kind == 'all-reduce'][0]
  assert (found.group, found.members) == (len(members), members)


def test_the_text_of_a_real_program_is_read():
  mesh = jax.make_mesh((8,), ('x',), axis_types=(
      jax.sharding.AxisType.Auto,))
  row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('x'))
  shape = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=row)

  def fn(x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x.T @ x), None), x, length=5)[0]

  text = jax.jit(fn, out_shardings=row).lower(shape).compile().as_text()
  module = hlo.Module(text)
  assert sum(c.times for c in module.collectives()) >= 5
  assert module.bytes() > 5 * 64 * 64 * 4 / 8


# --- chips and times ---------------------------------------------------------


def test_published_peaks():
  v5p, sizes = chips.parse('v5p:4x4x4')
  assert sizes == (4, 4, 4) and v5p.flops == 459e12
  assert 90 < v5p.hbm / GIB < 96
  v4 = chips.parse('v4:2x2x1')[0]
  assert v4.per_device().flops == v4.flops / 2
  for name, chip in chips.CHIPS.items():
    assert chip.name == name and chip.axes in (2, 3)


@pytest.mark.parametrize('topology, message', [
    ('v5q:4x4', "unknown TPU generation 'v5q': did you mean"),
    ('v5e:4', "has 1 axes; a v5e slice has 2, as in 'v5e:4x4'"),
    ('v5p:4xx4', 'must be GENERATION:AxB or GENERATION:AxBxC'),
    ('v6e', 'must be GENERATION:AxB')])
def test_unknown_slices_are_refused(topology, message):
  with pytest.raises(ValueError, match=message):
    chips.parse(topology)


def test_a_missing_compiler_is_named(monkeypatch):
  monkeypatch.setattr(topologies, 'available', lambda: False)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[aot\]'"):
    topologies.devices('v5e:2x2')


def test_a_roofline_is_the_slowest_part():
  chip = chips.CHIPS['v5p']
  found = roofline.estimate(chip, 2 * chip.flops, chip.bandwidth, [],
                            [(0, 0, 0)], (4, 4, 4))
  assert found.bound == 2 and found.apart == 3 and found.limit == 'arithmetic'


def test_links_of_every_axis_that_a_group_spans_are_used():
  chip = chips.CHIPS['v5p']
  coords = [(x, y, z) for x in range(4) for y in range(4) for z in range(4)]
  along = lambda members: roofline.rate(
      chip, hlo.Collective('all-gather', 1, len(members), 1, members), coords,
      (4, 4, 4))
  # A closed ring in both directions; half of it is a line.
  assert along((0, 1, 2, 3)) == 2 * chip.link
  assert along((0, 1)) == chip.link
  assert along(tuple(range(64))) == 6 * chip.link
  v5e = chips.CHIPS['v5e']
  flat = [(x, y) for x in range(4) for y in range(4)]
  whole = hlo.Collective('all-reduce', 1, 16, 1, tuple(range(16)))
  assert roofline.rate(v5e, whole, flat, (4, 4)) == 2 * v5e.link


# --- memory ------------------------------------------------------------------

MESSAGE = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of \
memory in memory space hbm. Used 34.40G of 31.24G hbm. Exceeded hbm capacity \
by 3.16G.

Total hbm usage >= 34.90G:
    reserved        514.00M

  Largest program allocations in hbm:

  1. Size: 2.00G
     Operator: op_name="jit(update)/while/body/dot_general"
     Shape: f32[128256,4096]{1,0:T(8,128)}
     Unpadded size: 2.00G
     XLA label: fusion.1 = fusion(a, b)
     Allocation type: HLO temp
     ==========================

  2. Size: 512.00M
     Shape: bf16[32,4096]{1,0}
     XLA label: copy.7
     ==========================
"""


def test_what_did_not_fit_is_read_from_the_error():
  found = memory.refusal(RuntimeError(MESSAGE))
  assert (found.used / GIB, found.limit / GIB) == (34.4, 31.24)
  assert found.largest == [
      (2 * GIB, 'f32[128256,4096]', 'jit(update)/while/body/dot_general'),
      (GIB / 2, 'bf16[32,4096]', 'copy.7')]


def test_the_short_error_is_read_too():
  found = memory.refusal(RuntimeError(
      'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on '
      'HBM, the total memory required for HLO temporaries (129.00G) exceeds '
      'available HBM (15.75G). HLO module: jit__lambda.'))
  assert (found.used / GIB, found.limit / GIB) == (129, 15.75)


def test_other_errors_are_none_of_its_business():
  assert memory.refusal(RuntimeError('INTERNAL: RET_CHECK failure')) is None


def test_arguments_are_told_by_name():
  mesh = jax.make_mesh((8,), ('x',), axis_types=(
      jax.sharding.AxisType.Auto,))
  place = lambda *spec: jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(*spec))
  adam = optax.ScaleByAdamState(
      jax.ShapeDtypeStruct((), jnp.int32, sharding=place()),
      {'w': jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=place('x'))},
      {'w': jax.ShapeDtypeStruct((16, 4), jnp.bfloat16, sharding=place())})
  assert shapes.parts_of((adam,), 3) == [
      (16 * 4 * 2, 'nu'), (16 * 4 * 4 // 8, 'mu'), (4, 'count')]


def test_donated_outputs_count_once():
  found = memory.Memory(arguments=10, outputs=8, aliased=7, temporaries=5,
                        code=1, held=4)
  assert found.live == 17 and found.total == 21


# --- the sweep ---------------------------------------------------------------


def outcome(total, seconds, remat='full', pieces=4, **other):
  return sweep.Outcome(sweep.Candidate(64, 1, remat, pieces), total * GIB,
                       10 * GIB, seconds, seconds, 'arithmetic', **other)


def test_candidates_divide_rows_prompts_and_heads():
  found = list(sweep.candidates(16, 64, 8, heads=2))
  assert found and len(set(found)) == len(found)
  for option in found:
    assert option.fsdp * option.tensor == 16 and option.tensor <= 2
    assert 64 % (option.microbatches * option.fsdp) == 0
    assert 8 % option.microbatches == 0


def test_the_fastest_that_fits_is_chosen():
  slow, fast, large = outcome(5, 3.), outcome(6, 2.), outcome(11, 1.)
  assert sweep.best([slow, fast, large]) is fast
  assert sweep.best([large]) is None


def test_among_equals_the_smallest_is_chosen():
  fast, small = outcome(9, 2., 'names'), outcome(5, 2.05)
  assert sweep.best([fast, small]) is small
  told = '\n'.join(sweep.reasons([fast, small, outcome(11, 1., pieces=1)]))
  assert 'best: fsdp 64 x tensor 1, remat full, 4 microbatches' in told
  assert 'remat names, 4 microbatches is faster by' in told
  assert 'does not fit, 11.00 of 10.00 GiB' in told
  assert '--config.model.kw.remat=full' in told


def test_larger_pieces_of_what_does_not_fit_are_not_tried():
  tried, told = [], []

  def attempt(option):
    tried.append(option.microbatches)
    return sweep.Outcome(option, 11 * GIB, 10 * GIB)

  options = [sweep.Candidate(64, 1, 'full', n) for n in (1, 2, 4)]
  sweep.run(options, attempt, told.append)
  assert tried == [4] and len(told) == 3 and 'not tried' in told[1]


def test_a_sweep_without_a_winner_names_the_nearest():
  told = sweep.reasons([outcome(12, 1.), outcome(11, 1., pieces=8)])
  assert told == ['nothing fits; the nearest is fsdp 64 x tensor 1, remat '
                  'full, 8 microbatches, 11.00 of 10.00 GiB']


# --- the report --------------------------------------------------------------


def result(fits=True, **changes):
  found = memory.Memory(arguments=2 * GIB, outputs=2 * GIB, aliased=2 * GIB,
                        temporaries=3 * GIB, held=GIB)
  return analysis.Result(**dict(dict(
      name='update', fits=fits, limit=8. * GIB if fits else 4. * GIB,
      memory=found, needed=0, largest=[(GIB, 'f32[8,8]', 'jit(f)/dot')],
      flops=1e15, kernel_flops=1e14, traffic=1e12, collectives=[
          hlo.Collective('all-gather', GIB, 4, 10, (0, 1, 2, 3), 'weights')],
      source='text', estimate=roofline.Estimate(2., 1., .5), tokens=1000,
      rate='trained', compile_seconds=3.,
      given=[(GIB, 'opt_state.mu')]), **changes))


def test_a_report_says_what_fits_and_how_fast():
  text = report.program(result(), devices=4, per_chip=1)
  assert ('memory      5.00 GiB a device + 1.00 of the run beside it = 6.00 '
          'of 8.00 GiB: fits') in text
  assert 'all-gather 7.50' in text and '10% of them in kernels' in text
  # 1000 tokens on 4 chips in 2 to 3.5 seconds.
  assert '71 to 125 tokens trained a second and chip' in text
  assert 'everything fits' in '\n'.join(report.verdict([result()]))


def test_a_report_names_what_is_largest_where_it_does_not_fit():
  text = '\n'.join(report.verdict([result(fits=False)]))
  assert 'update does not fit: 6.00 of 4.00 GiB a device' in text
  assert text.index('3.00 GiB  temporaries') < text.index(
      '2.00 GiB  arguments')
  assert 'f32[8,8]' in text and '1.00 GiB  given: opt_state.mu' in text
  refused = result(fits=False, memory=None, needed=9 * GIB)
  assert 'DOES NOT FIT: needs 9.00 of 4.00 GiB' in report.program(
      refused, 4, 1)


def test_json_has_plain_numbers():
  found = result().json()
  assert found['memory']['live'] == 5 * GIB
  assert found['collectives'][0]['moved'] == 7.5 * GIB
  assert found['estimate']['bound'] == 2 and found['flops'] == 1e15
  assert np.isfinite(found['estimate']['apart'])


def test_the_page_holds_the_results():
  results = {path.stem: json.loads(path.read_text())
             for path in sorted(page.RESULTS.glob('*.json'))}
  text = (page.HERE / 'README.md').read_text()
  assert page.table(results) in text, 'run python experiments/aot/page.py'


def test_the_table_tells_memory_speed_and_what_was_refused():
  run = dict(
      command='--topology=v5p:2x2x1', topology='v5p:2x2x1', chips=4,
      fits=False, rows=64, length=8,
      mesh=dict(data=1, fsdp=2, tensor=2, expert=1),
      batching=dict(epochs=1, minibatches=1, microbatches=4), programs=[
          result().json(),
          result(name='score', fits=False, memory=None, needed=9 * GIB).json(),
          result(name='decode', cache=30 * GIB).json()])
  text = page.table({'small': run, 'sweep': {
      'reasons': ['best: x'], 'command': '--sweep'}})
  assert ('| small | fsdp 2 x tensor 2 | 8 | 8.00 | 5.00 (6.00) | refused: '
          '9.00 | - | - | - | 5.00 (6.00) | **no** |') in text
  assert ('| 1.00 | 1.00* | 8* | 2.00 to 3.50 | arithmetic | 71 to 125 | - | - '
          '|') in text
  assert '| 30.00 | 10.0% |' in text and 'best: x' in text
  assert '--sweep  # sweep' in text


def test_the_copy_for_the_sampler_is_a_row_of_its_own():
  copy = result(name='reshard', tokens=0, rate='', flops=0., kernel_flops=0.,
                source=analysis.TEXT)
  text = report.program(copy, devices=4, per_chip=1)
  assert '2 s at least' in text and '5.00 GiB a device' in text
  assert 'second and chip' not in text and 'matrix products' not in text
  mesh = dict(data=1, fsdp=4, tensor=1, expert=1)
  text = page.table({'small': dict(
      command='', topology='v5p:2x2x1', chips=4, fits=True, rows=64, length=8,
      mesh=mesh, batching=dict(epochs=1, minibatches=1, microbatches=4),
      rollout=dict(mesh=mesh | dict(fsdp=1, tensor=4), dtype='bfloat16'),
      programs=[copy.json()])})
  assert ('| small | fsdp 4; sampler: tensor 4, bfloat16 | 4 | 8.00 | - | - | '
          '5.00 (6.00) | - | - | - | yes |') in text
  assert '| - | - | - | - | - | - | 7.50 | 2.000 to 3.500 | - | - |' in text
