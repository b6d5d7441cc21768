// The Python face of the kernels: unwrap, release the GIL, call. Arguments are checked in lattice.py.
// SPDX-License-Identifier: MIT
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "mean_field.hpp"

namespace nb = nanobind;
using densecrf::Kernel;
using densecrf::Lattice;
using densecrf::Normalization;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

namespace {

// An uninitialised rows x columns array that NumPy will own.
Output make_output(std::size_t rows, std::size_t columns) {
    float *data = new float[rows * columns];
    nb::capsule owner(data, [](void *p) noexcept { delete[] static_cast<float *>(p); });
    return Output(data, {rows, columns}, owner);
}

Normalization normalization_named(const std::string &name) {
    if (name == "symmetric") return Normalization::symmetric;
    if (name == "after") return Normalization::after;
    if (name == "before") return Normalization::before;
    return Normalization::none;
}

Output filter(const Lattice &lattice, const Matrix &values, int threads) {
    Output out = make_output(values.shape(0), values.shape(1));
    nb::gil_scoped_release release;
    lattice.filter(values.data(), values.shape(1), out.data(), threads);
    return out;
}

Output mean_field(const Matrix &logits, const std::vector<std::shared_ptr<Lattice>> &lattices,
                  const std::vector<float> &weights, const std::string &normalization, int iterations, int threads) {
    Output out = make_output(logits.shape(0), logits.shape(1));
    nb::gil_scoped_release release;
    std::vector<Kernel> kernels;
    for (std::size_t m = 0; m < lattices.size(); ++m)
        kernels.emplace_back(lattices[m], weights[m], normalization_named(normalization), threads);
    densecrf::mean_field(logits.data(), logits.shape(0), logits.shape(1), kernels, iterations, out.data(), threads);
    return out;
}

}  // namespace

NB_MODULE(_native, module) {
    nb::class_<Lattice>(module, "Lattice")
        .def("__init__", [](Lattice *self, const Matrix &features, int threads) {
            nb::gil_scoped_release release;
            new (self) Lattice(features.data(), features.shape(0), int(features.shape(1)), threads);
        })
        .def_prop_ro("vertices", &Lattice::vertices)
        .def("filter", &filter);
    module.def("mean_field", &mean_field);
}
