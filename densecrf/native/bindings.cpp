// The Python bindings: unwrap arguments, check that sizes fit, release the GIL, and call the kernels. The
// values themselves are checked in lattice.py.
// SPDX-License-Identifier: MIT
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
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
using namespace nb::literals;
using densecrf::Kernel;
using densecrf::Lattice;
using densecrf::MeanField;
using densecrf::Normalization;
using densecrf::PairwiseTerm;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

namespace {

constexpr int max_dimensions = 255;  // as in lattice.py; a rank is a byte

void require(bool condition, const char *message) {
    if (!condition) throw std::invalid_argument(message);
}

// An uninitialised array of rows x columns that NumPy owns.
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

// Calls work() without the GIL, with up to `threads` threads for its loops. Python runs signal handlers only
// in its main thread and between bytecodes. Work in that thread therefore runs them from time to time, and an
// exception that one raises (Ctrl-C: KeyboardInterrupt) ends the work and is raised here.
template <class Work>
void run(int threads, const Work &work) {
    require(threads >= 1, "got no threads, wanted at least 1");
    const bool handles_signals = in_main_thread();
    std::exception_ptr raised;
    const auto should_stop = [&raised] {
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
    const densecrf::Team team(threads, handles_signals ? std::function<bool()>(should_stop) : nullptr);
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

// Filters N x v values, in batches of up to 8 columns. kernel: whose self weights apply; null for the lattice
// alone.
void filter_columns(const Kernel *kernel, const Lattice &lattice, const float *values, std::size_t columns,
                    float *out, int threads) {
    const std::size_t points = lattice.points();
    const int lanes = columns == 1 ? 1 : columns <= 4 ? 4 : 8;
    const std::vector<float> ones(lanes, 1.0f);
    const float *self = kernel ? kernel->self_weights() : nullptr;
    densecrf::Buffer<float> source(points * lanes), result(points * lanes), rows, scratch;
    for (std::size_t start = 0; start < columns; start += lanes) {
        const std::size_t count = std::min<std::size_t>(lanes, columns - start);
        densecrf::parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i)
                for (std::size_t k = 0; k < std::size_t(lanes); ++k)
                    source[i * lanes + k] = k < count ? values[i * columns + start + k] : 0.0f;
        });
        lattice.splat_and_blur(nullptr, source.data(), lanes, rows, scratch, threads);
        densecrf::parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
            std::fill(result.begin() + begin * lanes, result.begin() + end * lanes, 0.0f);
            lattice.slice(lanes, nullptr, rows.data(), ones.data(), result.data() + begin * lanes, begin,
                          end);
            for (std::size_t i = begin; i < end; ++i)
                for (std::size_t k = 0; k < count; ++k) {
                    const float excluded = self ? self[i] * source[i * lanes + k] : 0.0f;
                    out[i * columns + start + k] = result[i * lanes + k] - excluded;
                }
        });
    }
}

Output filter(const Kernel *kernel, const Lattice &lattice, const Matrix &values, int threads) {
    require(values.shape(0) == lattice.points(),
            "got values of another number of rows than points, wanted a row each");
    Output out = make_output(values.shape(0), values.shape(1));
    run(threads,
        [&] { filter_columns(kernel, lattice, values.data(), values.shape(1), out.data(), threads); });
    return out;
}

Lattice make_lattice(const Matrix &features, int halo, int threads) {
    const std::size_t dimensions = features.shape(1);
    return Lattice(features.data(), features.shape(0), int(dimensions), halo, threads);
}

void check_lattice(const Matrix &features, int halo) {
    const std::size_t dimensions = features.shape(1);
    require(dimensions >= 1 && dimensions <= max_dimensions, "got features of no dimensions or over 255");
    require(halo == 0 || halo == 1, "got a halo other than 0 or 1");
}

void init_lattice(Lattice *self, const Matrix &features, int halo, int threads) {
    check_lattice(features, halo);
    std::optional<Lattice> lattice;
    run(threads, [&] { lattice.emplace(make_lattice(features, halo, threads)); });
    new (self) Lattice(std::move(*lattice));
}

void init_kernel(Kernel *self, const Matrix &features, const std::string &normalization, bool include_self,
                 int halo, int threads) {
    check_lattice(features, halo);
    const Normalization kind = normalization_named(normalization);
    std::optional<Kernel> kernel;
    run(threads, [&] { kernel.emplace(make_lattice(features, halo, threads), kind, include_self, threads); });
    new (self) Kernel(std::move(*kernel));
}

// The weighted sum of the kernels' messages for K x N values, and the inner product of each kernel's message
// with `dot_with`, if given.
std::pair<Output, std::vector<double>> messages(const std::vector<std::shared_ptr<Kernel>> &kernels,
                                                const std::vector<float> &weights, const Matrix &values,
                                                const std::optional<Matrix> &dot_with, bool transposed,
                                                int threads) {
    require(kernels.size() == weights.size(), "got another number of weights than kernels");
    for (const auto &kernel : kernels)
        require(kernel && kernel->lattice().points() == values.shape(1),
                "got a kernel over another number of points than the values, wanted the same");
    require(!dot_with || (dot_with->shape(0) == values.shape(0) && dot_with->shape(1) == values.shape(1)),
            "got values and an array for their inner product in two shapes, wanted one");
    Output out = make_output(values.shape(0), values.shape(1));
    std::vector<double> dot_products(dot_with ? kernels.size() : 0);
    run(threads, [&] {
        const densecrf::MessageTask task{{kernels.begin(), kernels.end()},
                                         weights,
                                         values.data(),
                                         dot_with ? dot_with->data() : nullptr,
                                         values.shape(0),
                                         values.shape(1),
                                         transposed};
        densecrf::MessageSum(task, threads).run(out.data(), dot_products.data());
    });
    return {out, dot_products};
}

// A mean field, and the array that holds its unaries.
struct Inference {
    Matrix unaries;
    std::unique_ptr<MeanField> field;

    Output make_marginals() const { return make_output(unaries.shape(0), unaries.shape(1)); }
};

void init_inference(Inference *self, Matrix unaries, float floor,
                    const std::vector<std::shared_ptr<Kernel>> &kernels,
                    const std::vector<std::vector<float>> &strengths, float merge_threshold,
                    float convergence_tolerance, int threads) {
    require(unaries.shape(0) >= 1, "got no labels, wanted at least 1");
    require(kernels.size() == strengths.size(), "got another number of strengths than kernels");
    require(floor >= 0 && floor < 1, "got a floor that is no probability under 1");
    require(merge_threshold >= 0 && merge_threshold < 1,
            "got a merge threshold that is not from 0 to under 1");
    require(convergence_tolerance >= 0 && convergence_tolerance < 1,
            "got a convergence tolerance that is not from 0 to under 1");
    std::vector<PairwiseTerm> terms;
    for (std::size_t m = 0; m < kernels.size(); ++m) terms.push_back({kernels[m], strengths[m]});
    std::unique_ptr<MeanField> field;
    run(threads, [&] {
        const densecrf::Unaries planes{unaries.data(), unaries.shape(0), unaries.shape(1), floor};
        const densecrf::Approximations approximations{merge_threshold, convergence_tolerance};
        field = std::make_unique<MeanField>(planes, std::move(terms), approximations, threads);
    });
    new (self) Inference{std::move(unaries), std::move(field)};
}

void set_marginals(Inference &self, const Matrix &marginals) {
    require(marginals.shape(0) == self.unaries.shape(0) && marginals.shape(1) == self.unaries.shape(1),
            "got marginals of another shape than the unaries, wanted the same");
    run(self.field->threads(), [&] { self.field->set_marginals(marginals.data()); });
}

void take_steps(Inference &self, int iterations) {
    run(self.field->threads(), [&] { self.field->run(iterations); });
}

Output marginals(Inference &self) {
    Output out = self.make_marginals();
    run(self.field->threads(), [&] { self.field->marginals(out.data()); });
    return out;
}

std::map<std::string, double> phase_seconds(const Inference &self) {
    const densecrf::PhaseTimes &times = self.field->phase_times();
    return {{"start", times.start},   {"first splat", times.first_splat},     {"blur", times.blur},
            {"update", times.update}, {"active update", times.active_update}, {"other steps", times.other},
            {"output", times.output}};
}

Output finish(Inference &self) {
    Output out = self.make_marginals();
    run(self.field->threads(), [&] { self.field->finish(out.data()); });
    return out;
}

Output energies_of(const Matrix &probabilities, float floor, int threads) {
    require(floor > 0, "got a floor of 0, wanted a number above it");
    const densecrf::Unaries unaries{probabilities.data(), probabilities.shape(0), probabilities.shape(1),
                                    floor};
    Output out = make_output(unaries.labels, unaries.points);
    run(threads, [&] {
        densecrf::parallel_for(threads, unaries.points, [&](std::size_t begin, std::size_t end) {
            for (std::size_t k = 0; k < unaries.labels; ++k)
                densecrf::label_energies(unaries, k, out.data() + k * unaries.points + begin, begin, end);
        });
    });
    return out;
}

}  // namespace

NB_MODULE(_native, module) {
    nb::class_<Lattice>(module, "Lattice")
        .def("__init__", &init_lattice, "features"_a, "halo"_a, "threads"_a)
        .def_prop_ro("vertices", &Lattice::vertices)
        .def(
            "filter",
            [](const Lattice &self, const Matrix &values, int threads) {
                return filter(nullptr, self, values, threads);
            },
            "values"_a, "threads"_a);
    nb::class_<Kernel>(module, "Kernel")
        .def("__init__", &init_kernel, "features"_a, "normalization"_a, "include_self"_a, "halo"_a,
             "threads"_a)
        .def(
            "filter",
            [](const Kernel &self, const Matrix &values, int threads) {
                return filter(&self, self.lattice(), values, threads);
            },
            "values"_a, "threads"_a);
    nb::class_<Inference>(module, "MeanField")
        .def("__init__", &init_inference, "unaries"_a, "floor"_a, "kernels"_a, "strengths"_a,
             "merge_threshold"_a, "convergence_tolerance"_a, "threads"_a)
        .def("set_marginals", &set_marginals, "marginals"_a)
        .def("run", &take_steps, "iterations"_a)
        .def("marginals", &marginals)
        .def("finish", &finish)
        .def("phase_seconds", &phase_seconds);
    module.def("messages", &messages, "kernels"_a, "weights"_a, "values"_a, "dot_with"_a.none(),
               "transposed"_a, "threads"_a);
    module.def("empty", &make_output, "rows"_a, "columns"_a);
    module.def("energies_of", &energies_of, "probabilities"_a, "floor"_a, "threads"_a);
    module.def("simd_level", [] { return std::string(densecrf::simd_level()); });
}
