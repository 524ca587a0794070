"""Scripts among the tests that are run by themselves."""

collect_ignore = [
    'fixtures/make.py', 'fixtures/make_lora.py', 'host_memory.py',
    'two_hosts.py']
