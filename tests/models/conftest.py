"""Scripts among the tests that are run by themselves."""

collect_ignore = ['fixtures/make.py', 'host_memory.py', 'two_hosts.py']
