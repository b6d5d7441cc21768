// The Python face of the kernels: unwrap, release the GIL, call. Arguments are checked in lattice.py.
// SPDX-License-Identifier: MIT
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "mean_field.hpp"
#include "messages.hpp"
#include "simd.hpp"

namespace nb = nanobind;
using densecrf::Kernel;
using densecrf::Lattice;
using densecrf::MeanField;
using densecrf::Normalization;
using densecrf::Pull;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

namespace {

// An uninitialised rows x columns array that NumPy will own.
Output make_output(std::size_t rows, std::size_t columns) {
    using Numbers = densecrf::Buffer<float>;
    auto numbers = std::make_unique<Numbers>(rows * columns);
    float *data = numbers->data();
    nb::capsule owner(numbers.get(), [](void *p) noexcept { delete static_cast<Numbers *>(p); });
    numbers.release();
    return Output(data, {rows, columns}, owner);
}

Normalization normalization_named(const std::string &name) {
    if (name == "symmetric") return Normalization::symmetric;
    if (name == "after") return Normalization::after;
    if (name == "before") return Normalization::before;
    return Normalization::none;
}

// N x v values in, filtered values out; columns are taken up to 16 at a time.
void filter_columns(const Kernel *kernel, const Lattice &lattice, const float *values, std::size_t columns, float *out,
                    int threads) {
    const std::size_t points = lattice.points();
    const int lanes = columns == 1 ? 1 : columns <= 4 ? 4 : 8;
    const std::vector<float> ones(lanes, 1.0f);
    densecrf::Buffer<float> source(points * lanes), result(points * lanes), rows, spare;
    for (std::size_t start = 0; start < columns; start += lanes) {
        const std::size_t count = std::min<std::size_t>(lanes, columns - start);
        densecrf::parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i)
                for (std::size_t k = 0; k < std::size_t(lanes); ++k)
                    source[i * lanes + k] = k < count ? values[i * columns + start + k] : 0.0f;
        });
        lattice.splat_and_blur(nullptr, source.data(), lanes, rows, spare, threads);
        densecrf::parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
            std::fill(result.begin() + begin * lanes, result.begin() + end * lanes, 0.0f);
            lattice.slice(lanes, nullptr, rows.data(), ones.data(), result.data() + begin * lanes, begin, end);
            for (std::size_t i = begin; i < end; ++i)
                for (std::size_t k = 0; k < count; ++k) {
                    const float own = kernel && kernel->own() ? kernel->own()[i] * source[i * lanes + k] : 0.0f;
                    out[i * columns + start + k] = result[i * lanes + k] - own;
                }
        });
    }
}

Output filter_by_lattice(const Lattice &lattice, const Matrix &values, int threads) {
    Output out = make_output(values.shape(0), values.shape(1));
    nb::gil_scoped_release release;
    const densecrf::Team team(threads);
    filter_columns(nullptr, lattice, values.data(), values.shape(1), out.data(), threads);
    return out;
}

Output filter_by_kernel(const Kernel &kernel, const Matrix &values, int threads) {
    Output out = make_output(values.shape(0), values.shape(1));
    nb::gil_scoped_release release;
    const densecrf::Team team(threads);
    filter_columns(&kernel, kernel.lattice(), values.data(), values.shape(1), out.data(), threads);
    return out;
}

// K x N values to weighted messages K x N, and each kernel's inner product with `beside`.
std::pair<Output, std::vector<double>> messages(const std::vector<std::shared_ptr<Kernel>> &kernels,
                                                const std::vector<float> &weights, const Matrix &values,
                                                const std::optional<Matrix> &beside, bool transposed, int threads) {
    Output out = make_output(values.shape(0), values.shape(1));
    std::vector<double> products(beside ? kernels.size() : 0);
    nb::gil_scoped_release release;
    const densecrf::Team team(threads);
    densecrf::messages({kernels.begin(), kernels.end()}, weights, values.data(), beside ? beside->data() : nullptr,
                       values.shape(0), values.shape(1), transposed, out.data(), products.data(), threads);
    return {out, products};
}

// A mean field that keeps the array its unaries live in.
struct Inference {
    Matrix unaries;
    MeanField field;
};

}  // namespace

NB_MODULE(_native, module) {
    nb::class_<Lattice>(module, "Lattice")
        .def("__init__",
             [](Lattice *self, const Matrix &features, int rings, int threads) {
                 nb::gil_scoped_release release;
                 const densecrf::Team team(threads);
                 new (self) Lattice(features.data(), features.shape(0), int(features.shape(1)), rings, threads);
             })
        .def_prop_ro("vertices", &Lattice::vertices)
        .def("filter", &filter_by_lattice);
    nb::class_<Kernel>(module, "Kernel")
        .def("__init__",
             [](Kernel *self, const Matrix &features, const std::string &normalization, bool include_self, int rings,
                int threads) {
                 const Normalization kind = normalization_named(normalization);
                 nb::gil_scoped_release release;
                 const densecrf::Team team(threads);
                 Lattice lattice(features.data(), features.shape(0), int(features.shape(1)), rings, threads);
                 new (self) Kernel(std::move(lattice), kind, include_self, threads);
             })
        .def("filter", &filter_by_kernel);
    nb::class_<Inference>(module, "MeanField")
        .def("__init__",
             [](Inference *self, Matrix unaries, float floor, const std::vector<std::shared_ptr<Kernel>> &kernels,
                const std::vector<std::vector<float>> &strengths, float pool, float settled, int threads) {
                 std::vector<Pull> pulls;
                 for (std::size_t m = 0; m < kernels.size(); ++m) pulls.push_back({kernels[m], strengths[m]});
                 nb::gil_scoped_release release;
                 const densecrf::Team team(threads);
                 const densecrf::Unaries planes{unaries.data(), unaries.shape(0), unaries.shape(1), floor};
                 MeanField field(planes, std::move(pulls), {pool, settled}, threads);
                 new (self) Inference{std::move(unaries), std::move(field)};
             })
        .def("set_marginals",
             [](Inference &self, const Matrix &marginals) {
                 nb::gil_scoped_release release;
                 self.field.set_marginals(marginals.data());
             })
        .def("run",
             [](Inference &self, int iterations) {
                 nb::gil_scoped_release release;
                 const densecrf::Team team(self.field.threads());
                 self.field.run(iterations);
             })
        .def("marginals",
             [](const Inference &self) {
                 Output out = make_output(self.unaries.shape(0), self.unaries.shape(1));
                 nb::gil_scoped_release release;
                 self.field.marginals(out.data());
                 return out;
             })
        .def("finish", [](Inference &self) {
            Output out = make_output(self.unaries.shape(0), self.unaries.shape(1));
            nb::gil_scoped_release release;
            self.field.finish(out.data());
            return out;
        });
    module.def("messages", &messages, nb::arg("kernels"), nb::arg("weights"), nb::arg("values"),
               nb::arg("beside").none(), nb::arg("transposed"), nb::arg("threads"));
    module.def("empty", &make_output);
    module.def("energies_of", [](const Matrix &probabilities, float floor, int threads) {
        const densecrf::Unaries unaries{probabilities.data(), probabilities.shape(0), probabilities.shape(1), floor};
        Output out = make_output(unaries.labels, unaries.points);
        nb::gil_scoped_release release;
        const densecrf::Team team(threads);
        densecrf::parallel_for(threads, unaries.points, [&](std::size_t begin, std::size_t end) {
            for (std::size_t k = 0; k < unaries.labels; ++k)
                densecrf::energies_of(unaries, k, out.data() + k * unaries.points + begin, begin, end);
        });
        return out;
    });
    module.def("simd_level", [] { return std::string(densecrf::simd_level()); });
}
