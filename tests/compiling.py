"""How programs are compiled where a test must not have it quick."""

from policyopt.training import compiling

# As JAX compiles by itself: rounding depends on what the compiler orders and
# fuses.
AS_JAX_DOES = {
    'xla_backend_optimization_level': 3,
    'xla_llvm_disable_expensive_passes': False,
    'xla_cpu_use_fusion_emitters': True,
    'xla_cpu_parallel_codegen_split_count': 32,
}

SAMPLER_OF_A_RUN = AS_JAX_DOES | compiling.PRODUCTS
