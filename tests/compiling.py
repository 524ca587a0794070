"""How programs are compiled where a test must not have it quick."""

# As JAX compiles by itself: rounding depends on what the compiler orders and
# fuses.
AS_IN_A_RUN = {
    'xla_backend_optimization_level': 3,
    'xla_llvm_disable_expensive_passes': False,
    'xla_cpu_use_fusion_emitters': True,
    'xla_cpu_parallel_codegen_split_count': 32,
}

# As the sampler of a run is, see `policyopt/training/compiling.py`.
SAMPLER_OF_A_RUN = AS_IN_A_RUN | {
    'xla_backend_optimization_level': 2,
    'xla_cpu_use_fusion_emitters': False,
}
