"""Eight CPU devices, strict flags and a compilation cache for every test; set before jax is imported."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# For processes that tests start, too. Programs run briefly and compile for long: LLVM's -O1, nothing unrolled, and on
# jax 0.10 no fusion emitters, a flag that jax 0.12 lacks. (-O0 would do for all but float64 theory.)
os.environ.setdefault(
    "ONE_DEVICE_FLAGS",
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=1 --xla_backend_extra_options=xla_cpu_optimize_for_size,"
    "xla_cpu_disable_loop_unrolling,xla_cpu_disable_slp_vectorizer,xla_cpu_disable_tiled_emitter"
    + " --xla_cpu_use_fusion_emitters=false"
    * version("jax").startswith("0.10."),
)
os.environ["XLA_FLAGS"] = os.environ["ONE_DEVICE_FLAGS"] + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("MPLBACKEND", "Agg")
# Compiling is most of the suite's time, and runs of one shape compile the same programs; subprocesses share the cache.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jaxtyping
import pytest

import tests.checking  # noqa: F401 - the hook takes it from `tests`

jax.config.update("jax_numpy_rank_promotion", "raise")

# deq_nc.config checks its own values: a field that takes another type than it names is its business, and is tested.
jaxtyping.install_import_hook(
    [f"deq_nc.{room}" for room in ("losses", "npz", "sample", "equilibrium", "collapse", "theory", "models", "data")]
    + [f"deq_nc.{room}" for room in ("runs", "training", "sweep", "report")],
    "tests.checking.checked",
)


@pytest.fixture(autouse=True)
def _unchecked(request):
    """A test marked `other_types` hands in what annotations exclude on purpose, to see the library's own refusal."""
    marked = request.node.get_closest_marker("other_types") is not None
    jaxtyping.config.update("jaxtyping_disable", marked)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
