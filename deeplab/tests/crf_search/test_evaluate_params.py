from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import deeplab.crf_search.evaluate_params
import densecrf
from deeplab.classes import VOC_CLASSES
from deeplab.crf_search.evaluate_params import ParamsEvaluator, by_lattice, refined_labels
from deeplab.crf_search.report import NO_CRF
from deeplab.crf_search.score_cache import FileScores
from deeplab.datasets.opening import voc
from deeplab.evaluation.metrics import confusion_matrix
from densecrf import Params
from search_scene import AFTER, HEIGHT, SMALL, WIDTH, evaluator_of, first_of, make


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path)


@pytest.mark.parametrize("threads", [1, 2])
def test_labels_are_those_of_refine(folder, threads):
    photo, probabilities = first_of(folder)
    settings = [
        *SMALL.settings(AFTER),
        *SMALL.settings(Params())[:3],
        NO_CRF,
        replace(AFTER, appearance_weight=0),
        replace(AFTER, smoothness_weight=0),
        replace(AFTER, smoothness_xy_std=1.5),
    ]
    settings = settings[::2] + settings[1::2]
    found = dict(refined_labels(photo, probabilities, settings, threads=threads))
    assert set(found) == set(settings)
    different = set()
    for params, labels in found.items():
        expected = densecrf.refine(photo, probabilities, params=params).argmax(0)
        assert np.array_equal(labels, expected)
        different.add(labels.tobytes())
    assert len(different) > 5
    assert np.array_equal(found[NO_CRF], probabilities.argmax(0))


def test_a_lattice_is_built_once_for_all_weights(folder, monkeypatch):
    built = []
    kernel = deeplab.crf_search.evaluate_params.Kernel

    def counted(*arguments, **options):
        built.append(arguments[0].shape[1])
        return kernel(*arguments, **options)

    monkeypatch.setattr(deeplab.crf_search.evaluate_params, "Kernel", counted)
    settings = SMALL.settings(AFTER)
    assert len(list(refined_labels(*first_of(folder), settings))) == 8
    assert sorted(built) == [
        2,
        5,
        5,
        5,
        5,
    ]  # features of one smoothness and four appearance kernels for 8 settings
    assert [len(group) for group in by_lattice(settings)] == [2, 2, 2, 2]


def test_scores_are_of_one_confusion_matrix(folder):
    found = evaluator_of(folder, folder / "t.jsonl").scores([NO_CRF, AFTER])
    total = {params: np.zeros((21, 21), np.int64) for params in found}
    for sample in voc(folder, "val"):
        photo, source = sample.read_photo(), FileScores(folder / "scores.npz", voc(folder, "val"))
        probabilities = source.probabilities(sample, photo.shape[:2])
        for params, sums in total.items():
            labels = densecrf.refine(photo, probabilities, params=params).argmax(0)
            sums += confusion_matrix(sample.read_labels(), labels, 21)
    for params, scores in found.items():
        assert np.array_equal(scores.confusion, total[params])
        assert scores.confusion.sum() == 3 * HEIGHT * (WIDTH - 2)  # two columns are void
    assert found[AFTER].mean_iou > found[NO_CRF].mean_iou


class Stops:
    """A source that is interrupted at a photo."""

    def __init__(self, source, name):
        self.source, self.name, self.requested = source, name, []

    def probabilities(self, sample, size):
        self.requested.append(sample.name)
        if sample.name == self.name:
            raise KeyboardInterrupt
        return self.source.probabilities(sample, size)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_stopped_search_resumes(folder, workers):
    settings = SMALL.settings(AFTER)
    whole = evaluator_of(folder, folder / "whole.jsonl", workers).scores(settings)
    dataset, store = voc(folder, "val"), folder / "stopped.jsonl"
    source = FileScores(folder / "scores.npz", dataset)
    evaluator_of(folder, store, workers).scores(settings[:3])
    before = store.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        ParamsEvaluator(dataset.samples, Stops(source, "c"), VOC_CLASSES, store, workers=workers).scores(
            settings
        )
    assert store.read_bytes().startswith(before)
    if workers == 1:  # photos before it are done
        assert len(store.read_text().splitlines()) == 2 * 8 + 3
    cut = store.read_bytes() + b'{"photo": "c", "par'  # killed in the middle of a line
    store.write_bytes(cut)
    resumed = Stops(source, None)
    found = ParamsEvaluator(dataset.samples, resumed, VOC_CLASSES, store, workers=workers).scores(settings)
    assert list(found) == list(whole)
    assert all(np.array_equal(found[params].confusion, whole[params].confusion) for params in settings)
    assert len(store.read_text().splitlines()) == 3 * 8
    again = Stops(source, None)
    ParamsEvaluator(dataset.samples, again, VOC_CLASSES, store).scores(settings)
    assert "c" in resumed.requested
    assert again.requested == []


def test_a_damaged_store_is_named(folder):
    store = folder / "t.jsonl"
    evaluator_of(folder, store).scores([AFTER])
    lines = store.read_text().splitlines(keepends=True)
    for bad in (
        "no json\n",
        '{"photo": "a"}\n',
        '{"photo": "a", "params": {}, "cells": [900], "counts": [1]}\n',
    ):
        store.write_text(lines[0] + bad + lines[1])
        with pytest.raises(ValueError, match=r"t.jsonl: line 2 is damaged .*; remove the line"):
            evaluator_of(folder, store)


def test_labels_that_do_not_fit_are_named(folder):
    Image.fromarray(np.full((HEIGHT, WIDTH), 40, np.uint8)).save(folder / "SegmentationClass/b.png")
    with pytest.raises(ValueError, match=r"b.png: got id 40 in the labels"):
        evaluator_of(folder, folder / "t.jsonl").scores([AFTER])
