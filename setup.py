"""Installs policyopt."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
README = HERE / 'README.md'

CORE = [
    'jax>=0.10.2',
    'flax>=0.12.8',
    'optax>=0.2.8',
    'chex>=0.1.92',
    'numpy>=2.0',
]
EXTRAS = {
    'train': [
        'absl-py>=2.3',
        'grain>=0.2.18',
        'jinja2>=3.1',
        'math-verify>=0.9',
        'matplotlib>=3.9',
        'ml-collections>=1.1',
        # Version 1.0 moves the interface that training/checkpoints.py uses.
        'orbax-checkpoint>=0.12.8,<1.0',
        'reasoning-gym>=0.1.25',
        'safetensors>=0.5',
        'sentencepiece>=0.2',
        'tensorboardX>=2.6.4',
        'tensorflow-datasets>=4.9.9',
        'tokenizers>=0.22',
        'tqdm>=4.67',
    ],
    'tpu': ['jax[tpu]>=0.10.2'],
    'gpu': ['jax[cuda12]>=0.10.2'],
    # Compiles for TPUs on a machine that has none.
    'aot': ['libtpu>=0.0.42'],
    'test': [
        'hypothesis>=6.130',
        'jupytext>=1.17',
        'nbclient>=0.10',
        'pytest>=8.4',
        'pytest-xdist>=3.8',
        'ruff>=0.14',
    ],
    # The peers of experiments/bench; verl brings half of the ecosystem along.
    'bench': ['torch>=2.8', 'trl>=1.0', 'verl>=0.9'],
    'notebooks': ['ipykernel>=6.29', 'jupytext>=1.17', 'nbmake>=1.5.5',
                  'notebook>=7.4'],
}

setuptools.setup(
    name='policyopt',
    version='0.1.0',
    description='Language-model policy optimisation as small pure functions '
                'that compose, in JAX',
    long_description=README.read_text('utf-8') if README.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=setuptools.find_packages(include=['policyopt', 'policyopt.*']),
    python_requires='>=3.11',
    install_requires=CORE,
    extras_require=EXTRAS,
)
