// Runs the kernels over many shapes for the sanitizers (`make sanitize`): points, dimensions, labels,
// threads, normalisations, compatibilities. Checks that marginals sum to one and do not depend on the number
// of threads, and that backward messages are the transpose of forward ones. Also checked: calls that are
// stopped at any point, one mean field used by four threads, merged labels that become likely, terms that do
// not fit, and exponentials and lattices at the limits of their input.
// SPDX-License-Identifier: MIT
#include <cstdio>
#include <limits>
#include <random>
#include <thread>

#include "exponential.hpp"
#include "lanes.hpp"
#include "mean_field.hpp"
#include "messages.hpp"

using namespace densecrf;

namespace {

int failures = 0;

void check(bool passed, const char *what, std::size_t points, int dimensions, std::size_t labels) {
    if (passed) return;
    ++failures;
    std::printf("failed: %s at %zu points, %d dimensions, %zu labels\n", what, points, dimensions, labels);
}

std::vector<float> infer(const std::vector<float> &features, std::size_t points, int dimensions,
                         const std::vector<float> &energies, std::size_t labels, int kind,
                         float merge_threshold, int threads) {
    const bool halo = dimensions < 8 && kind % 5 == 3;
    Lattice lattice(features.data(), points, dimensions, halo, threads, kind % 4 == 1 ? 0 : 1 << 20);
    const auto normalization = Normalization(kind % 4);
    const auto kernel = std::make_shared<Kernel>(std::move(lattice), normalization, kind % 3 != 0, threads);
    const float weight = normalization == Normalization::none ? 0.01f : 3.0f;
    std::vector<float> strengths(labels, weight);
    if (kind % 5 == 1) strengths[0] += 0.5f;
    if (kind % 5 == 2) {
        strengths.assign(labels * labels, -weight);
        for (std::size_t k = 0; k < labels; ++k) strengths[k * labels + k] = 0;
    }
    const Unaries unaries{energies.data(), labels, points, kind % 6 == 5 ? 1e-10f : 0.0f};
    MeanField field(unaries, {{kernel, strengths}}, {merge_threshold, kind % 3 ? 0.05f : 0.0f}, threads);
    field.run(7);
    std::vector<float> marginals(labels * points);
    field.marginals(marginals.data());
    field.set_marginals(marginals.data());
    field.run(1);
    field.marginals(marginals.data());
    return marginals;
}

// The difference of <F a, b> and <a, F^T b>, relative to the size of their summands.
double transposition_error(const std::vector<float> &features, std::size_t points, int dimensions,
                           std::size_t labels, int kind, int threads) {
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    std::vector<float> a(labels * points), b(a.size()), forward(a.size()), backward(a.size());
    for (std::size_t e = 0; e < a.size(); ++e) a[e] = normal(random), b[e] = normal(random);
    const bool include_self =
        kind % 3 != 0 || dimensions > 7;  // without it, only rounding errors remain for points far apart
    std::vector<std::shared_ptr<const Kernel>> kernels;
    for (int m = 0; m < 2; ++m) {
        Lattice lattice(features.data(), points, dimensions, 0, threads, kind % 4 == 1 ? 0 : 1 << 20);
        kernels.push_back(std::make_shared<Kernel>(std::move(lattice), Normalization((kind + m) % 4),
                                                   include_self, threads));
    }
    const std::vector<float> weights{2.0f, -1.0f};
    double products[2], one = 0, other = 0, size = 1e-3;
    MessageSum({kernels, weights, a.data(), nullptr, labels, points, false}, threads)
        .run(forward.data(), nullptr);
    MessageSum({kernels, weights, b.data(), a.data(), labels, points, true}, threads)
        .run(backward.data(), products);
    for (std::size_t e = 0; e < a.size(); ++e) {
        one += double(forward[e]) * b[e];
        other += double(a[e]) * backward[e];
        size += std::fabs(double(forward[e]) * b[e]) + std::fabs(double(a[e]) * backward[e]);
    }
    const double sum = weights[0] * products[0] + weights[1] * products[1];
    return std::max(std::fabs(one - other), std::fabs(sum - other)) / size;
}

std::vector<float> normal_numbers(std::size_t count, float scale) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<float> numbers(count);
    for (float &number : numbers) number = scale * normal(random);
    return numbers;
}

bool sum_to_one(const std::vector<float> &marginals, std::size_t points, std::size_t labels) {
    for (std::size_t i = 0; i < points; ++i) {
        float sum = 0;
        for (std::size_t k = 0; k < labels; ++k) sum += marginals[k * points + i];
        if (!(std::fabs(sum - 1) < 1e-4f)) return false;
    }
    return true;
}

std::shared_ptr<Kernel> kernel_over(const std::vector<float> &features, std::size_t points, int dimensions,
                                    int halo, Normalization normalization, int threads) {
    Lattice lattice(features.data(), points, dimensions, halo, threads);
    const bool include_self = dimensions > 9;  // excluding it takes long there
    return std::make_shared<Kernel>(std::move(lattice), normalization, include_self, threads);
}

// A build or a run can be stopped at any check, and later calls are not affected.
void stop_everywhere() {
    const std::size_t points = 5000, labels = 5;
    for (const int dimensions : {3, 40}) {
        const std::vector<float> features = normal_numbers(points * dimensions, 2),
                                 energies = normal_numbers(points * labels, 1);
        int stopped = 0;
        bool done = false;
        for (long checks = 1; !done; checks = 2 * checks + 1) {
            long left = checks;
            const Team team(4, [&] { return --left == 0; }, Team::Clock::duration(0));
            try {
                const auto kernel =
                    kernel_over(features, points, dimensions, dimensions < 9, Normalization::symmetric, 4);
                MeanField field({energies.data(), labels, points, 0},
                                {{kernel, std::vector<float>(labels, 3)}}, {0.1f, 0.05f}, 4);
                field.run(7);
                done = true;
            } catch (const Stopped &) {
                ++stopped;
            }
        }
        check(stopped > 6, "no call was stopped midway", points, dimensions, labels);
    }
}

void share_one_field() {
    const std::size_t points = 3000, labels = 9;
    const std::vector<float> features = normal_numbers(points * 3, 2),
                             energies = normal_numbers(points * labels, 1);
    const auto kernel = kernel_over(features, points, 3, 0, Normalization::symmetric, 1);
    MeanField field({energies.data(), labels, points, 0}, {{kernel, std::vector<float>(labels, 3)}}, {}, 2);
    std::atomic<int> ran{0};
    std::vector<std::thread> workers;
    for (int n = 0; n < 4; ++n)
        workers.emplace_back([&] {
            for (int turn = 0; turn < 20; ++turn) {
                try {
                    field.run(1);
                    ++ran;
                } catch (const std::runtime_error &) {
                }
            }
        });
    for (std::thread &worker : workers) worker.join();
    std::vector<float> marginals(labels * points);
    field.marginals(marginals.data());
    check(ran > 0 && sum_to_one(marginals, points, labels), "four threads corrupted one mean field", points,
          3, labels);
    field.finish(marginals.data());
    try {
        field.run(1);
        check(false, "a finished mean field ran", points, 3, labels);
    } catch (const std::runtime_error &) {
    }
}

// An image: its pixels are splatted tile by tile, in 9 labels or in a pair, all of them or the active ones.
void refine_image() {
    const std::size_t height = 60, width = 130, points = height * width;
    std::mt19937 random(4);
    std::uniform_real_distribution<float> level(0, 3);
    std::vector<float> positions(points * 2), colors(points * 5);
    for (std::size_t i = 0; i < points; ++i) {
        const float x = float(i % width), y = float(i / width), edge = x > 60 ? 6.0f : 0.0f;
        positions[2 * i] = x / 3, positions[2 * i + 1] = y / 3;
        colors[5 * i] = x / 8, colors[5 * i + 1] = y / 8;
        for (int c = 2; c < 5; ++c) colors[5 * i + c] = edge + level(random);
    }
    for (const std::size_t labels : {2, 9})
        for (const int kind : {0, 1, 2, 3}) {
            const std::vector<float> energies = normal_numbers(points * labels, 1);
            std::vector<float> wanted(points * labels), found(wanted.size());
            for (const int threads : {1, 4}) {
                std::vector<PairwiseTerm> terms;
                for (const int dimensions : {2, 5}) {
                    Lattice lattice((dimensions == 2 ? positions : colors).data(), points, dimensions, 0,
                                    threads);
                    check(!lattice.tiles().empty(), "an image has no tiles", points, dimensions, labels);
                    terms.push_back(
                        {std::make_shared<Kernel>(std::move(lattice), Normalization(kind), kind % 2, threads),
                         std::vector<float>(labels, kind == 3 ? 0.02f : 3.0f)});
                }
                MeanField field({energies.data(), labels, points, 0}, terms, {0.1f, 1e-3f}, threads);
                field.run(10);
                field.finish(threads == 1 ? wanted.data() : found.data());
            }
            check(found == wanted, "an image depends on the number of threads", points, kind, labels);
            check(sum_to_one(found, points, labels), "an image does not sum to one", points, kind, labels);
        }
}

// Labels that are unlikely one by one, but likely together; energies and strengths of any size.
void go_to_extremes() {
    const std::size_t points = 888;
    const std::vector<float> features = normal_numbers(points * 2, 2);
    for (const std::size_t labels : {2, 3, 12, 21})
        for (const float scale : {0.05f, 1e6f, 3e37f})
            for (const float strength : {3.0f, 200.0f, -200.0f, 1e20f})
                for (const int kind : {0, 1, 2, 3}) {
                    const auto kernel = kernel_over(features, points, 2, 0, Normalization(kind), 2);
                    const std::vector<float> energies = normal_numbers(points * labels, scale);
                    std::vector<float> marginals(points * labels);
                    for (const int steps : {0, 1, 4}) {
                        const Unaries unaries{energies.data(), labels, points, 0};
                        MeanField field(unaries, {{kernel, std::vector<float>(labels, strength)}},
                                        {0.1f, 1e-4f}, 2);
                        field.run(steps);
                        field.marginals(marginals.data());
                        check(sum_to_one(marginals, points, labels), "extremes do not sum to one", points,
                              kind, labels);
                        field.set_marginals(marginals.data());
                        field.run(3);
                        field.finish(marginals.data());
                        check(sum_to_one(marginals, points, labels), "a second run does not sum to one",
                              points, kind, labels);
                    }
                }
}

void refuse_what_does_not_fit() {
    const std::size_t points = 30, labels = 3;
    const std::vector<float> features = normal_numbers(points * 2, 2),
                             energies = normal_numbers(points * labels, 1);
    const auto fits = kernel_over(features, points, 2, 0, Normalization::none, 1);
    const auto smaller = kernel_over(features, points - 1, 2, 0, Normalization::none, 1);
    const std::vector<float> three(3, 1.0f), four(4, 1.0f), huge(3, 3e38f);
    const std::vector<PairwiseTerm> wrong{{smaller, three}, {fits, four}, {nullptr, three}, {fits, huge}};
    for (const PairwiseTerm &term : wrong) try {
            MeanField({energies.data(), labels, points, 0}, {term}, {}, 1);
            check(false, "a term that does not fit was accepted", points, 2, labels);
        } catch (const std::invalid_argument &) {
        }
}

// Exponentials of any float are finite, and no conversion to an integer overflows (UBSan's
// float-cast-overflow).
void exponentiate_anything() {
    const float largest = std::numeric_limits<float>::max(),
                infinity = std::numeric_limits<float>::infinity();
    for (const float x : {0.0f, -0.0f, 1e-45f, 87.0f, 88.0f, 3e9f, largest, infinity, std::nanf("")})
        for (const float signed_x : {x, -x}) {
            const float expected =
                std::exp(std::isnan(x) ? -87.0f : std::min(std::max(signed_x, -87.0f), 87.0f));
            check(std::fabs(fast_exp(signed_x) / expected - 1) < 1e-6f, "an exponential is wrong", 1, 1, 1);
            check(fast_exp_nonpositive(signed_x) <= 1, "an exponential is over 1", 1, 1, 1);
            float row[8];
            store<8>(fast_exp_nonpositive<8>(load<8>(std::vector<float>(8, signed_x).data())), row);
            for (const float value : row)
                check(value >= 0 && value <= 1, "a vector of exponentials is wrong", 1, 1, 8);
        }
}

// Features at the limit of what a lattice can number are either refused or located without overflow.
void locate_at_the_limit() {
    for (const int dimensions : {1, 2, 5, 126, 127, 128})
        for (const float limit : {0.99e6f, 1.9e7f, 2.04e7f, 2.05e7f, 2.9e7f, 1e30f}) {
            for (const int feature : {0, dimensions - 1}) {
                std::vector<float> features(dimensions, 0.0f);
                features[feature] = limit;
                try {
                    const Lattice lattice(features.data(), 1, dimensions, 0, 1);
                    check(lattice.vertices() == std::size_t(dimensions) + 1, "corners coincide", 1,
                          dimensions, 1);
                } catch (const std::invalid_argument &) {
                }
            }
        }
}

}  // namespace

int main() {
    exponentiate_anything();
    locate_at_the_limit();
    stop_everywhere();
    share_one_field();
    refine_image();
    go_to_extremes();
    refuse_what_does_not_fit();
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    int kind = 0;
    for (const std::size_t points : {1, 2, 17, 300, 9000})
        for (const int dimensions : {1, 2, 3, 5, 7, 40})
            for (const std::size_t labels : {1, 2, 3, 5, 9, 21}) {
                if (points * dimensions * labels > 500000) continue;  // ThreadSanitizer is slow
                ++kind;
                std::vector<float> features(points * dimensions), energies(points * labels);
                for (float &f : features) f = normal(random) * (kind % 7 == 0 ? 1e5f : 2.0f);
                for (std::size_t e = 0; e < energies.size(); ++e)
                    energies[e] = std::fabs(normal(random)) + (e / points > 2 && kind % 2 ? 6.0f : 0.0f);
                const float merge_threshold = kind % 2 ? 0.1f : 0.0f;
                const auto one =
                    infer(features, points, dimensions, energies, labels, kind, merge_threshold, 1);
                const auto four =
                    infer(features, points, dimensions, energies, labels, kind, merge_threshold, 4);
                check(one == four, "one thread and four differ", points, dimensions, labels);
                const double error =
                    transposition_error(features, points, dimensions, labels, kind, 1 + kind % 4);
                check(error < 1e-3, "the transpose is wrong", points, dimensions, labels);
                for (std::size_t i = 0; i < points; ++i) {
                    float sum = 0;
                    for (std::size_t k = 0; k < labels; ++k) sum += one[k * points + i];
                    check(std::fabs(sum - 1) < 1e-3f, "marginals do not sum to one", points, dimensions,
                          labels);
                }
            }
    std::printf("%d shapes, %d failures\n", kind, failures);
    return failures != 0;
}
