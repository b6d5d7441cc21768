"""The search for the CRF's parameters on a validation set."""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.crf_search.evaluate_params import ParamsEvaluator as ParamsEvaluator
    from deeplab.crf_search.grid import Grid as Grid
    from deeplab.crf_search.grid import best_of as best_of
    from deeplab.crf_search.grid import by_optuna as by_optuna
    from deeplab.crf_search.grid import coarse_to_fine as coarse_to_fine
    from deeplab.crf_search.score_cache import CachedScores as CachedScores
    from deeplab.crf_search.score_cache import FileScores as FileScores

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "evaluate_params": ["ParamsEvaluator"],
        "grid": ["Grid", "best_of", "by_optuna", "coarse_to_fine"],
        "score_cache": ["CachedScores", "FileScores"],
    },
)
