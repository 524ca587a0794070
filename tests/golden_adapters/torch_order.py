"""The order in which torch.topk leaves equal entries."""


def torch_order(values, count):
  """Indices of `values`, falling, with ties as torch.topk leaves them.

  On CPUs it calls C++'s nth_element, whose partition swaps equal entries; the
  `count` first of the result are what it selects.
  """
  queue = list(range(len(values)))

  def above(a, b):
    return values[a] > values[b]

  def swap(i, j):
    queue[i], queue[j] = queue[j], queue[i]

  def partition(first, last):
    pivot, a, b, c = first, first + 1, (first + last) // 2, last - 1
    if not above(queue[a], queue[b]):
      a, b = b, a
    if above(queue[b], queue[c]):
      median = b
    elif above(queue[a], queue[c]):
      median = c
    else:
      median = a
    swap(first, median)
    first += 1
    while True:
      while above(queue[first], queue[pivot]):
        first += 1
      last -= 1
      while above(queue[pivot], queue[last]):
        last -= 1
      if first >= last:
        return first
      swap(first, last)
      first += 1

  if count * 64 <= len(values) or not queue:
    return sorted(queue, key=lambda i: -values[i])
  first, last = 0, len(queue)
  while last - first > 3:
    cut = partition(first, last)
    first, last = (cut, last) if cut <= count - 1 else (first, cut)
  queue[first:last] = sorted(queue[first:last], key=lambda i: -values[i])
  return queue
