// The Python face of the kernels: unwrap, check that sizes fit, release the GIL, call. What values mean is checked in
// lattice.py.
// SPDX-License-Identifier: MIT
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <stdexcept>

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

constexpr int most_dimensions = 255;  // as in lattice.py; a rank is a byte

void require(bool fits, const char *what) {
    if (!fits) throw std::invalid_argument(what);
}

// An uninitialised rows x columns array that NumPy will own.
Output make_output(std::size_t rows, std::size_t columns) {
    using Numbers = densecrf::Buffer<float>;
    if (columns > 0 && rows > std::numeric_limits<std::size_t>::max() / columns) throw std::bad_alloc();
    auto numbers = std::make_unique<Numbers>(rows * columns);
    float *data = numbers->data();
    nb::capsule owner(numbers.get(), [](void *p) noexcept { delete static_cast<Numbers *>(p); });
    numbers.release();
    return Output(data, {rows, columns}, owner);
}

bool in_main_thread() {
    const nb::object ident = nb::module_::import_("threading").attr("main_thread")().attr("ident");
    return ident.is(nb::none()) ? false : nb::cast<unsigned long>(ident) == PyThread_get_thread_ident();
}

// Calls work() without the GIL, its loops shared by up to so many threads. Python's own handlers of signals wait until the
// interpreter goes on; so in its main thread they are called now and then meanwhile, and what one raises (Ctrl-C:
// KeyboardInterrupt) ends the work and is raised here.
template <class Work>
void run(int threads, const Work &work) {
    require(threads >= 1, "got no threads, wanted at least 1");
    const bool handles_signals = in_main_thread();
    std::exception_ptr raised;
    const auto asks = [&raised] {
        const nb::gil_scoped_acquire lock;
        if (PyErr_CheckSignals() == 0) return false;
        try {
            nb::raise_python_error();
        } catch (...) {
            raised = std::current_exception();
        }
        return true;
    };
    const nb::gil_scoped_release release;
    const densecrf::Team team(threads, handles_signals ? std::function<bool()>(asks) : nullptr);
    try {
        work();
    } catch (const densecrf::Stopped &) {
    }
    if (raised) std::rethrow_exception(raised);
}

Normalization normalization_named(const std::string &name) {
    if (name == "symmetric") return Normalization::symmetric;
    if (name == "after") return Normalization::after;
    if (name == "before") return Normalization::before;
    require(name == "none", "got an unknown normalization, wanted one of: symmetric, after, before, none");
    return Normalization::none;
}

// N x v values in, filtered values out; columns are taken up to 8 at a time.
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

Output filter(const Kernel *kernel, const Lattice &lattice, const Matrix &values, int threads) {
    require(values.shape(0) == lattice.points(), "got values of another number of rows than points, wanted a row each");
    Output out = make_output(values.shape(0), values.shape(1));
    run(threads, [&] { filter_columns(kernel, lattice, values.data(), values.shape(1), out.data(), threads); });
    return out;
}

Lattice make_lattice(const Matrix &features, int rings, int threads) {
    const std::size_t dimensions = features.shape(1);
    return Lattice(features.data(), features.shape(0), int(dimensions), rings, threads);
}

void check_lattice(const Matrix &features, int rings) {
    const std::size_t dimensions = features.shape(1);
    require(dimensions >= 1 && dimensions <= most_dimensions, "got features of no dimensions or over 255");
    require(rings == 0 || rings == 1, "got another number of rings than 0 or 1");
}

// K x N values to weighted messages K x N, and each kernel's inner product with `beside`.
std::pair<Output, std::vector<double>> messages(const std::vector<std::shared_ptr<Kernel>> &kernels,
                                                const std::vector<float> &weights, const Matrix &values,
                                                const std::optional<Matrix> &beside, bool transposed, int threads) {
    require(kernels.size() == weights.size(), "got another number of weights than kernels");
    for (const auto &kernel : kernels)
        require(kernel && kernel->lattice().points() == values.shape(1),
                "got a kernel over another number of points than the values, wanted the same");
    require(!beside || (beside->shape(0) == values.shape(0) && beside->shape(1) == values.shape(1)),
            "got values and what they are multiplied with in two shapes, wanted one");
    Output out = make_output(values.shape(0), values.shape(1));
    std::vector<double> products(beside ? kernels.size() : 0);
    run(threads, [&] {
        densecrf::messages({kernels.begin(), kernels.end()}, weights, values.data(), beside ? beside->data() : nullptr,
                           values.shape(0), values.shape(1), transposed, out.data(), products.data(), threads);
    });
    return {out, products};
}

// A mean field that keeps the array its unaries live in.
struct Inference {
    Matrix unaries;
    std::unique_ptr<MeanField> field;

    Output empty() const { return make_output(unaries.shape(0), unaries.shape(1)); }
};

void make_inference(Inference *self, Matrix unaries, float floor, const std::vector<std::shared_ptr<Kernel>> &kernels,
                    const std::vector<std::vector<float>> &strengths, float pool, float settled, int threads) {
    require(unaries.shape(0) >= 1, "got no labels, wanted at least 1");
    require(kernels.size() == strengths.size(), "got another number of strengths than kernels");
    require(floor >= 0 && floor < 1, "got a floor that is no probability under 1");
    require(pool >= 0 && pool < 1 && settled >= 0 && settled < 1, "got pool or settled out of 0 to 1");
    std::vector<Pull> pulls;
    for (std::size_t m = 0; m < kernels.size(); ++m) pulls.push_back({kernels[m], strengths[m]});
    std::unique_ptr<MeanField> field;
    run(threads, [&] {
        const densecrf::Unaries planes{unaries.data(), unaries.shape(0), unaries.shape(1), floor};
        field = std::make_unique<MeanField>(planes, std::move(pulls), densecrf::Savings{pool, settled}, threads);
    });
    new (self) Inference{std::move(unaries), std::move(field)};
}

void set_marginals(Inference &self, const Matrix &marginals) {
    require(marginals.shape(0) == self.unaries.shape(0) && marginals.shape(1) == self.unaries.shape(1),
            "got marginals of another shape than the unaries, wanted the same");
    run(self.field->threads(), [&] { self.field->set_marginals(marginals.data()); });
}

Output energies_of(const Matrix &probabilities, float floor, int threads) {
    require(floor > 0, "got a floor of 0, wanted a number above it");
    const densecrf::Unaries unaries{probabilities.data(), probabilities.shape(0), probabilities.shape(1), floor};
    Output out = make_output(unaries.labels, unaries.points);
    run(threads, [&] {
        densecrf::parallel_for(threads, unaries.points, [&](std::size_t begin, std::size_t end) {
            for (std::size_t k = 0; k < unaries.labels; ++k)
                densecrf::energies_of(unaries, k, out.data() + k * unaries.points + begin, begin, end);
        });
    });
    return out;
}

}  // namespace

NB_MODULE(_native, module) {
    nb::class_<Lattice>(module, "Lattice")
        .def("__init__",
             [](Lattice *self, const Matrix &features, int rings, int threads) {
                 check_lattice(features, rings);
                 std::optional<Lattice> made;
                 run(threads, [&] { made.emplace(make_lattice(features, rings, threads)); });
                 new (self) Lattice(std::move(*made));
             })
        .def_prop_ro("vertices", &Lattice::vertices)
        .def("filter", [](const Lattice &self, const Matrix &values, int threads) {
            return filter(nullptr, self, values, threads);
        });
    nb::class_<Kernel>(module, "Kernel")
        .def("__init__",
             [](Kernel *self, const Matrix &features, const std::string &normalization, bool include_self, int rings,
                int threads) {
                 check_lattice(features, rings);
                 const Normalization kind = normalization_named(normalization);
                 std::optional<Kernel> made;
                 run(threads, [&] { made.emplace(make_lattice(features, rings, threads), kind, include_self, threads); });
                 new (self) Kernel(std::move(*made));
             })
        .def("filter", [](const Kernel &self, const Matrix &values, int threads) {
            return filter(&self, self.lattice(), values, threads);
        });
    nb::class_<Inference>(module, "MeanField")
        .def("__init__", &make_inference)
        .def("set_marginals", &set_marginals)
        .def("run", [](Inference &self, int iterations) {
            run(self.field->threads(), [&] { self.field->run(iterations); });
        })
        .def("marginals", [](Inference &self) {
            Output out = self.empty();
            run(self.field->threads(), [&] { self.field->marginals(out.data()); });
            return out;
        })
        .def("finish", [](Inference &self) {
            Output out = self.empty();
            run(self.field->threads(), [&] { self.field->finish(out.data()); });
            return out;
        });
    module.def("messages", &messages, nb::arg("kernels"), nb::arg("weights"), nb::arg("values"),
               nb::arg("beside").none(), nb::arg("transposed"), nb::arg("threads"));
    module.def("empty", &make_output);
    module.def("energies_of", &energies_of);
    module.def("simd_level", [] { return std::string(densecrf::simd_level()); });
}
