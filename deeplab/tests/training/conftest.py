import pytest

from deeplab.training.recipe import Recipe
from training_runs import write_cats


@pytest.fixture(scope="session")
def cats(tmp_path_factory):
    """Folder of the tiny data set."""
    root = tmp_path_factory.mktemp("cats")
    write_cats(root)
    return root


@pytest.fixture
def recipe(cats):
    """Four steps of a few hundred milliseconds each."""
    return Recipe(
        data=str(cats),
        crop=65,
        batch=2,
        steps=4,
        rate=1e-4,
        validate_every=2,
        checkpoint_every=1,
        precision="fp32",
        device="cpu",
    )
