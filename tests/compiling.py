"""How programs are compiled where a test must not have it quick."""

# As in a real run: rounding depends on how the compiler orders and fuses.
AS_IN_A_RUN = {
    'xla_backend_optimization_level': 3,
    'xla_llvm_disable_expensive_passes': False,
    'xla_cpu_use_fusion_emitters': True,
    'xla_cpu_parallel_codegen_split_count': 32,
}
