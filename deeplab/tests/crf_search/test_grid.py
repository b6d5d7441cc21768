import csv
import io
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

import deeplab.model.loading
import densecrf
import densecrf.cli
from deeplab.cli import main
from deeplab.commands.common import ModelOptions
from deeplab.commands.search import Search, search
from deeplab.crf_search.grid import (
    SPAN,
    Grid,
    at_grid_edge,
    best_of,
    by_optuna,
    coarse_to_fine,
    draw_samples,
)
from deeplab.crf_search.report import heat_map, scatter_plot, short_rows, table_csv, tuning_caveat
from deeplab.datasets.opening import voc
from deeplab.files import lock_file
from densecrf.params import Params, read_params
from search_scene import AFTER, SMALL, evaluator_of, first_of, make


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path)


def options(folder, out="out", **changes):
    chosen = SMALL.axes | {"rounds": 1} | changes
    return Search(data=folder, out=folder / out, scores=folder / "scores.npz", **chosen)


def peak(weight, xy, rgb):
    """An objective with its only best at a setting, for widths and weights by their logarithms."""
    place = np.log([weight, xy, rgb])

    def measure(settings):
        values = [[p.appearance_weight, p.appearance_xy_std, p.appearance_rgb_std] for p in settings]
        return [1 - float(np.square(np.log(value) - place).sum()) for value in values]

    return measure


def appearance(params):
    return params.appearance_weight, params.appearance_xy_std, params.appearance_rgb_std


def test_the_papers_grid():
    settings = Grid().settings(AFTER)
    assert len(settings) == len(set(settings)) == 288
    assert appearance(settings[0]) == (5, 50, 3)
    assert appearance(settings[-1]) == (10, 100, 10)
    assert {(p.smoothness_weight, p.smoothness_xy_std, p.normalization) for p in settings} == {
        (3, 3, "after")
    }


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ((7, 70, 5), (7, 70, 5)),  # on the grid
        ((7.26, 67.4, 5.4), (7.25, 67.5, 5.5)),  # between its places
        ((4, 121, 5), (4, 120, 5)),  # beyond it: the release's LargeFOV
    ],
)
def test_coarse_to_fine_finds_the_best(best, expected):
    measure, seen = peak(*best), []

    def counted(settings):
        seen.extend(settings)
        return measure(settings)

    table = coarse_to_fine(counted, Grid(), AFTER)
    assert appearance(best_of(table)) == expected
    assert seen == list(table)
    assert len(seen) == len(set(seen)) < 288 + 160
    assert list(coarse_to_fine(measure, Grid(), AFTER, rounds=0)) == Grid().settings(AFTER)


def test_refinement_stays_above_zero_and_keeps_single_values():
    table = coarse_to_fine(peak(0.1, 5, 3), Grid((1.0, 2.0), (5.0,), (3.0, 4.0)), AFTER, rounds=3)
    assert {params.appearance_xy_std for params in table} == {5}
    assert min(params.appearance_weight for params in table) > 0
    best = best_of(table)
    assert appearance(best) == (0.125, 5, 3)
    assert at_grid_edge(best, Grid((1.0, 2.0), (5.0,), (3.0, 4.0))) == [
        "appearance_weight",
        "appearance_rgb_std",
    ]
    assert (
        at_grid_edge(
            replace(AFTER, appearance_weight=7, appearance_xy_std=60, appearance_rgb_std=9.5), Grid()
        )
        == []
    )


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no labelled pixel of the classes that are scored"):
        coarse_to_fine(lambda settings: [math.nan] * len(settings), SMALL, AFTER)
    with pytest.raises(ValueError, match="got -1 rounds, wanted at least 0"):
        coarse_to_fine(peak(4, 80, 6), SMALL, AFTER, rounds=-1)
    with pytest.raises(ValueError, match="got 0 trials, wanted at least 1"):
        by_optuna(peak(4, 80, 6), SPAN, AFTER, trials=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"appearance_weight": ()}, "got appearance_weight = (), wanted at least one number"),
        (
            {"appearance_xy_std": (50, 0)},
            "got appearance_xy_std = (50, 0), wanted at least one number, each finite",
        ),
        ({"appearance_rgb_std": (3, math.inf)}, "each finite and above 0"),
        ({"appearance_rgb_std": (3, 4, 3.0)}, "wanted each value once"),
    ],
)
def test_grids_that_cannot_be_searched(values, message):
    with pytest.raises(ValueError, match="got appearance") as caught:
        Grid(**values)
    assert message in str(caught.value)


def test_optuna_finds_the_best_again_and_again():
    pytest.importorskip("optuna")
    measure = peak(4, 80, 6)
    table = by_optuna(measure, SPAN, AFTER, trials=40, seed=1)
    assert max(table.values()) > 0.8
    assert by_optuna(measure, SPAN, AFTER, trials=40, seed=1) == table
    assert (
        by_optuna(measure, SPAN, AFTER, trials=5, seed=2).keys()
        != by_optuna(measure, SPAN, AFTER, trials=5).keys()
    )
    for params in table:
        assert all(
            SPAN.axes[n][0] <= v <= SPAN.axes[n][1]
            for n, v in zip(SPAN.axes, appearance(params), strict=True)
        )


def test_without_optuna_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'deeplab-crf\[search\]'"):
        by_optuna(peak(4, 80, 6), SPAN, AFTER)


def test_photos_are_drawn_by_seed(folder):
    samples = voc(folder, "val").samples * 10
    drawn = draw_samples(samples, 7, seed=3)
    assert len(drawn) == 7
    assert drawn == draw_samples(samples, 7, seed=3)
    assert any(draw_samples(samples, 7, seed=seed) != drawn for seed in range(3))
    assert draw_samples(samples[:3], 3) == draw_samples(samples[:3], 100) == list(samples[:3])
    with pytest.raises(ValueError, match="got 0 of 30 photos to tune on, wanted at least 1"):
        draw_samples(samples, 0)


def test_caveat_on_the_photos_that_were_tuned_on():
    assert tuning_caveat(["a", "b"], "val", ["b", "a"], "val") == (
        "Tuned and scored on the same 2 photos of 'val', so the scores are optimistic; --report-split NAME "
        "scores the best parameters on another split."
    )
    assert tuning_caveat(["a"], "val", ["c", "d"], "test") == (
        "Tuned on 1 photo of 'val'; scored on 2 photos of 'test', none of them used for tuning."
    )
    assert tuning_caveat(["a", "b"], "val", ["b", "c", "d"], "test") == (
        "Tuned on 2 photos of 'val'; scored on 3 photos of 'test', of which 1 was used for tuning, so the "
        "scores are optimistic."
    )


def red_centre(picture):
    """Width of a picture, and the mean column of what is drawn in the colour of the best."""
    with Image.open(io.BytesIO(picture)) as image:
        levels = np.asarray(image.convert("RGB")).astype(int)
    columns = np.nonzero(np.abs(levels - (214, 39, 40)).max(axis=2) < 30)[1]
    return levels.shape[1], columns.mean()


def test_the_best_is_framed_where_it_is():
    pytest.importorskip("matplotlib")
    settings = SMALL.settings(AFTER)
    for weight, low, high in ((2, 0.1, 0.5), (6, 0.5, 0.9)):
        width, column = red_centre(
            heat_map(SMALL, dict(zip(settings, peak(weight, 4, 5)(settings), strict=True)), "mIoU")
        )
        assert low * width < column < high * width
    width, column = red_centre(
        scatter_plot(dict(zip(settings, peak(2, 4, 5)(settings), strict=True)), "mIoU")
    )
    assert 0 < column < width / 2  # all three parameters at their lower ends


def test_tables_agree_with_the_evaluator(folder):
    evaluator = evaluator_of(folder, folder / "t.jsonl")
    settings = SMALL.settings(AFTER)
    found = evaluator.scores(settings)
    rows = list(csv.DictReader(table_csv(found).decode().splitlines()))
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 9)]
    assert float(rows[3]["mIoU-21"]) == pytest.approx(100 * found[settings[3]].mean_iou, abs=1e-4)
    assert float(rows[3]["pixel accuracy"]) == pytest.approx(
        100 * found[settings[3]].pixel_accuracy, abs=1e-4
    )
    assert [float(rows[3][name]) for name in SMALL.axes] == list(appearance(settings[3]))
    short = short_rows(evaluator, Params(), settings * 2)
    assert [row[0] for row in short] == ["", "no CRF", "default", *map(str, range(1, 11))]
    assert short[1][1:7] == ["–"] * 6
    assert short[2][1:7] == ["5", "50", "3", "3", "3", "symmetric"]
    assert short[3][-1] == f"{100 * found[settings[0]].pixel_accuracy:.2f}"


def test_from_photos_to_parameters_that_others_read(folder, photo_file, model, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    assert search(options(folder)) == 0
    out = folder / "out"
    written = {path.name for path in out.iterdir()} - {".lock"}
    assert written == {
        "heat-map.png",
        "params.json",
        "search.json",
        "summary.md",
        "table.csv",
        "trials.jsonl",
    }
    best = read_params(out / "params.json")
    with open(out / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 8
    assert {name: float(rows[0][name]) for name in SMALL.axes} == {
        name: getattr(best, name) for name in SMALL.axes
    }
    assert float(rows[0]["mIoU-21"]) == max(float(row["mIoU-21"]) for row in rows)
    assert best.normalization == "after"
    printed = capsys.readouterr().out
    assert "Tuned and scored on the same 3 photos of 'val', so the scores are optimistic" in printed
    assert "| no CRF | – |" in (out / "summary.md").read_text()

    photo, probabilities = first_of(folder)
    np.save(folder / "p.npy", probabilities)
    arguments = [str(folder / "JPEGImages/a.jpg"), str(folder / "p.npy"), "-o", str(folder / "q.npy")]
    assert densecrf.cli.main(["refine", *arguments, "--params", str(out / "params.json")]) == 0
    assert np.array_equal(np.load(folder / "q.npy"), densecrf.refine(photo, probabilities, params=best))

    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: model)
    arguments = [
        "segment",
        str(photo_file),
        "--crf-params",
        str(out / "params.json"),
        "--out",
        str(folder / "labels"),
    ]
    assert main(arguments) == 0
    with Image.open(folder / "labels/photo.png") as ids:
        assert np.array_equal(np.asarray(ids), model.segment(photo_file, crf=best).labels)


def test_the_same_command_resumes_and_another_is_refused(folder):
    pytest.importorskip("matplotlib")
    search(options(folder))
    store, table = folder / "out/trials.jsonl", (folder / "out/table.csv").read_bytes()
    lines = store.read_bytes().splitlines(keepends=True)
    store.write_bytes(b"".join(lines[:11]) + lines[11][:40])
    (folder / "out/table.csv").unlink()
    search(options(folder, workers=1))
    assert sorted(store.read_bytes().splitlines(keepends=True)) == sorted(lines)
    assert (folder / "out/table.csv").read_bytes() == table
    for changes, message in (
        ({"photos": 2}, "out: was made with photos = 3 values: a, b, c, but photos is now 2 values"),
        ({"metric": "mIoU-7"}, "was made with metric = 'mIoU', but metric is now 'mIoU-7'"),
        ({"rounds": 2}, "was made with rounds = 1, but rounds is now 2; remove the folder or choose another"),
        ({"normalization": "symmetric"}, "was made with normalization = 'after'"),
        ({"appearance_weight": (2.0, 6.5)}, "was made with appearance_weight = "),
        ({"split": "test"}, "was made with split = 'val'"),
        ({"method": "optuna"}, "was made with method = 'grid'"),
    ):
        with pytest.raises(ValueError, match="was made with") as caught:
            search(options(folder, **changes))
        assert message in str(caught.value)
    assert sorted(store.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_two_searches_in_one_folder(folder, capsys):
    pytest.importorskip("matplotlib")
    (folder / "out").mkdir()
    line = [
        "search",
        "--data",
        str(folder),
        "--scores",
        str(folder / "scores.npz"),
        "--out",
        str(folder / "out"),
    ]
    with open(folder / "out/.lock", "ab") as file:
        lock_file(file, "not in use")
        assert main(line) == 1
    assert "out: another search works in this folder; wait for it, or name another" in capsys.readouterr().err
    assert [path.name for path in (folder / "out").iterdir()] == [".lock"]
    search(options(folder))
    assert (folder / "out/params.json").is_file()


def test_report_on_other_photos(folder, capsys):
    pytest.importorskip("matplotlib")
    search(options(folder, rounds=0, report_split="rest"))
    printed = capsys.readouterr().out
    assert (
        "Tuned on 3 photos of 'val'; scored on 2 photos of 'rest', none of them used for tuning." in printed
    )
    assert printed.count("no CRF") == 2
    found = evaluator_of(folder, folder / "fresh.jsonl", split="rest").scores(
        [read_params(folder / "out/params.json")]
    )
    assert f"{100 * next(iter(found.values())).pixel_accuracy:.2f}" in printed.split("'rest', percent")[1]
    search(options(folder, "out2", rounds=0, report_split="test"))
    assert "of which 1 was used for tuning, so the scores are optimistic" in capsys.readouterr().out


def test_search_with_a_network_runs_it_once(folder, model, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: model)
    grid = "--appearance-weight 4 --appearance-xy-std 10 20 --appearance-rgb-std 5 --rounds 0"
    arguments = ["--data", str(folder), "--out", str(folder / "out"), "--photos", "2", *grid.split()]
    settings = tyro.cli(Search, args=arguments)
    assert search(settings) == 0
    assert len(list((folder / "out/scores/val/photos").iterdir())) == 2
    assert len((folder / "out/table.csv").read_text().splitlines()) == 3
    facts = json.loads((folder / "out/search.json").read_text())
    assert facts["scores of"].startswith("deeplab-largefov at size 513, weights ")
    assert len(facts["photos"]) == 2
    monkeypatch.setattr(type(model.network), "forward", None)  # not needed any more
    assert search(settings) == 0


def test_optuna_on_real_photos(folder):
    pytest.importorskip("matplotlib")
    pytest.importorskip("optuna")
    chosen = options(folder, method="optuna", trials=6)
    search(chosen)
    out = folder / "out"
    assert (out / "optuna.png").is_file()
    table, lines = (out / "table.csv").read_bytes(), (out / "trials.jsonl").read_bytes().splitlines()
    assert len(table.splitlines()) == 7
    (out / "trials.jsonl").write_bytes(b"\n".join(lines[:5]) + b"\n")
    search(chosen)
    assert (out / "table.csv").read_bytes() == table


def test_options_that_cannot_be_used(folder):
    pytest.importorskip("matplotlib")
    engine = ModelOptions(weights="x.safetensors")
    with pytest.raises(ValueError, match="got --scores and --weights, wanted one of them"):
        search(options(folder, engine=engine))
    with pytest.raises(FileNotFoundError, match=r"no list .*none\.txt"):
        search(options(folder, split="none"))
    with pytest.raises(FileNotFoundError, match=r"no list .*none\.txt"):
        search(options(folder, report_split="none"))
    assert not (folder / "out/trials.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crf-params", "params.json", "--no-crf"], "got --crf-params and --no-crf, wanted one of them"),
        (["--crf-params", "none.json"], "none.json"),
        (["--crf-params", "bad.json"], "bad.json: not a file of parameters: unknown key 'w1'"),
    ],
)
def test_segment_refuses_parameters_it_cannot_use(
    photo_file, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    Path("params.json").write_text(json.dumps(asdict(AFTER)))
    Path("bad.json").write_text('{"w1": 5}')
    assert main(["segment", str(photo_file), *arguments, "--out", "out"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
