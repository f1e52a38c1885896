import subprocess
import sys

from equipoise.engine import metrics


def test_the_face_is_imported_without_what_it_names():
    """A fresh session imports nothing heavy until a name is used."""
    program = (
        "import sys\n"
        "from equipoise.engine import metrics\n"
        "heavy = {'jax', 'numpy', 'pandas', 'scipy', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import equipoise\n"
        "assert equipoise.metrics is metrics and metrics.policy.judge\n"
        "later = {'flax', 'orbax', 'grain', 'tensorflow', 'tensorflow_datasets', 'optax'} & set(sys.modules)\n"
        "assert not later, later\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_name_of_the_face_is_there_and_is_explained():
    for name in metrics.__all__:
        assert getattr(metrics, name) is not None
        assert f"``{name}``" in metrics.__doc__, f"the first page of help(metrics) does not name {name}"
