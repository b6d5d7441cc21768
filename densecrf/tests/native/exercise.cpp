// Runs the kernels over many shapes, for the sanitizers (`make sanitize`): points, dimensions, labels, threads,
// normalisations, compatibilities; checks that marginals sum to one and do not depend on the number of threads, and that
// messages going back are the transpose of messages going forth. Beside that: calls that are stopped at any of their
// checks, one mean field in four threads, pools that hold too much, and pulls that do not fit.
// SPDX-License-Identifier: MIT
#include <cstdio>
#include <random>
#include <thread>

#include "mean_field.hpp"
#include "messages.hpp"

using namespace densecrf;

namespace {

int failures = 0;

void check(bool fine, const char *what, std::size_t points, int dimensions, std::size_t labels) {
    if (fine) return;
    ++failures;
    std::printf("failed: %s at %zu points, %d dimensions, %zu labels\n", what, points, dimensions, labels);
}

std::vector<float> infer(const std::vector<float> &features, std::size_t points, int dimensions,
                         const std::vector<float> &energies, std::size_t labels, int kind, float pool, int threads) {
    Lattice lattice(features.data(), points, dimensions, dimensions < 8 && kind % 5 == 3, threads, kind % 4 == 1 ? 0 : 1 << 20);
    const auto normalization = Normalization(kind % 4);
    const auto kernel = std::make_shared<Kernel>(std::move(lattice), normalization, kind % 3 != 0, threads);
    const float pull = normalization == Normalization::none ? 0.01f : 3.0f;
    std::vector<float> strength(labels, pull);
    if (kind % 5 == 1) strength[0] += 0.5f;
    if (kind % 5 == 2) {
        strength.assign(labels * labels, -pull);
        for (std::size_t k = 0; k < labels; ++k) strength[k * labels + k] = 0;
    }
    const Unaries unaries{energies.data(), labels, points, kind % 6 == 5 ? 1e-10f : 0.0f};
    MeanField field(unaries, {{kernel, strength}}, {pool, kind % 3 ? 0.05f : 0.0f}, threads);
    field.run(7);
    std::vector<float> marginals(labels * points);
    field.marginals(marginals.data());
    field.set_marginals(marginals.data());
    field.run(1);
    field.marginals(marginals.data());
    return marginals;
}

// By how much <F a, b> and <a, F^T b> differ, for the size of the numbers that add up to them.
double transposition_error(const std::vector<float> &features, std::size_t points, int dimensions, std::size_t labels,
                           int kind, int threads) {
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    std::vector<float> a(labels * points), b(a.size()), forth(a.size()), back(a.size());
    for (std::size_t e = 0; e < a.size(); ++e) a[e] = normal(random), b[e] = normal(random);
    const bool include_self = kind % 3 != 0 || dimensions > 7;  // points far apart have but rounding errors without
    std::vector<std::shared_ptr<const Kernel>> kernels;
    for (int m = 0; m < 2; ++m) {
        Lattice lattice(features.data(), points, dimensions, 0, threads, kind % 4 == 1 ? 0 : 1 << 20);
        kernels.push_back(std::make_shared<Kernel>(std::move(lattice), Normalization((kind + m) % 4), include_self, threads));
    }
    const std::vector<float> weights{2.0f, -1.0f};
    double products[2], one = 0, other = 0, size = 1e-3;
    messages(kernels, weights, a.data(), nullptr, labels, points, false, forth.data(), nullptr, threads);
    messages(kernels, weights, b.data(), a.data(), labels, points, true, back.data(), products, threads);
    for (std::size_t e = 0; e < a.size(); ++e) {
        one += double(forth[e]) * b[e];
        other += double(a[e]) * back[e];
        size += std::fabs(double(forth[e]) * b[e]) + std::fabs(double(a[e]) * back[e]);
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

std::shared_ptr<Kernel> kernel_over(const std::vector<float> &features, std::size_t points, int dimensions, int rings,
                                    Normalization normalization, int threads) {
    Lattice lattice(features.data(), points, dimensions, rings, threads);
    const bool include_self = dimensions > 9;  // leaving it out takes long there
    return std::make_shared<Kernel>(std::move(lattice), normalization, include_self, threads);
}

// Whatever the check at which a build or a run is stopped: it ends, and what comes after it is as if it had not been.
void stop_everywhere() {
    const std::size_t points = 5000, labels = 5;
    for (const int dimensions : {3, 40}) {
        const std::vector<float> features = normal_numbers(points * dimensions, 2), energies = normal_numbers(points * labels, 1);
        int stopped = 0;
        bool done = false;
        for (long asked = 1; !done; asked = 2 * asked + 1) {
            long left = asked;
            const Team team(4, [&] { return --left == 0; }, Team::Clock::duration(0));
            try {
                const auto kernel = kernel_over(features, points, dimensions, dimensions < 9, Normalization::symmetric, 4);
                MeanField field({energies.data(), labels, points, 0}, {{kernel, std::vector<float>(labels, 3)}}, {0.1f, 0.05f}, 4);
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
    const std::vector<float> features = normal_numbers(points * 3, 2), energies = normal_numbers(points * labels, 1);
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
    check(ran > 0 && sum_to_one(marginals, points, labels), "four threads spoiled one mean field", points, 3, labels);
    field.finish(marginals.data());
    try {
        field.run(1);
        check(false, "a finished mean field ran", points, 3, labels);
    } catch (const std::runtime_error &) {
    }
}

// Labels that hold little everywhere, but everything together; energies and pulls of any size.
void go_to_extremes() {
    const std::size_t points = 888;
    const std::vector<float> features = normal_numbers(points * 2, 2);
    for (const std::size_t labels : {2, 3, 12, 21})
        for (const float scale : {0.05f, 1e6f, 3e37f})
            for (const float pull : {3.0f, 200.0f, -200.0f, 1e20f})
                for (const int kind : {0, 1, 2, 3}) {
                    const auto kernel = kernel_over(features, points, 2, 0, Normalization(kind), 2);
                    const std::vector<float> energies = normal_numbers(points * labels, scale);
                    std::vector<float> marginals(points * labels);
                    for (const int steps : {0, 1, 4}) {
                        const Unaries unaries{energies.data(), labels, points, 0};
                        MeanField field(unaries, {{kernel, std::vector<float>(labels, pull)}}, {0.1f, 1e-4f}, 2);
                        field.run(steps);
                        field.marginals(marginals.data());
                        check(sum_to_one(marginals, points, labels), "extremes do not sum to one", points, kind, labels);
                        field.set_marginals(marginals.data());
                        field.run(3);
                        field.finish(marginals.data());
                        check(sum_to_one(marginals, points, labels), "a second run does not sum to one", points, kind, labels);
                    }
                }
}

void refuse_what_does_not_fit() {
    const std::size_t points = 30, labels = 3;
    const std::vector<float> features = normal_numbers(points * 2, 2), energies = normal_numbers(points * labels, 1);
    const auto fits = kernel_over(features, points, 2, 0, Normalization::none, 1);
    const auto smaller = kernel_over(features, points - 1, 2, 0, Normalization::none, 1);
    const std::vector<float> three(3, 1.0f), four(4, 1.0f), huge(3, 3e38f);
    const std::vector<Pull> wrong{{smaller, three}, {fits, four}, {nullptr, three}, {fits, huge}};
    for (const Pull &pull : wrong)
        try {
            MeanField({energies.data(), labels, points, 0}, {pull}, {}, 1);
            check(false, "a pull that does not fit was taken", points, 2, labels);
        } catch (const std::invalid_argument &) {
        }
}

}  // namespace

int main() {
    stop_everywhere();
    share_one_field();
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
                const float pool = kind % 2 ? 0.1f : 0.0f;
                const auto one = infer(features, points, dimensions, energies, labels, kind, pool, 1);
                const auto four = infer(features, points, dimensions, energies, labels, kind, pool, 4);
                check(one == four, "one thread and four differ", points, dimensions, labels);
                const double error = transposition_error(features, points, dimensions, labels, kind, 1 + kind % 4);
                check(error < 1e-3, "the transpose is another one", points, dimensions, labels);
                for (std::size_t i = 0; i < points; ++i) {
                    float sum = 0;
                    for (std::size_t k = 0; k < labels; ++k) sum += one[k * points + i];
                    check(std::fabs(sum - 1) < 1e-3f, "marginals do not sum to one", points, dimensions, labels);
                }
            }
    std::printf("%d shapes, %d failures\n", kind, failures);
    return failures != 0;
}
