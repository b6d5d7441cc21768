// Which labels have a lane of their own and which are pooled, and what the lanes hold before the first step.
// SPDX-License-Identifier: MIT
#include <numeric>

#include "mean_field.hpp"

namespace densecrf {

// Labels that hold little by their unaries are pooled from the beginning, unless that would be all of them.
void MeanField::choose_lanes() {
    std::vector<float> top(labels_, 0.0f);
    bool fine = true;
    std::mutex guard;
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        std::vector<float> mine(labels_, 0.0f);
        bool these = true;
        in_pieces(begin, end, 16 * block_, [&](std::size_t i, std::size_t stop) {
            these = scan_unaries(unaries_, mine.data(), i, stop) && these;
        });
        const std::lock_guard<std::mutex> lock(guard);
        fine = fine && these;
        for (std::size_t k = 0; k < labels_; ++k) top[k] = std::max(top[k], mine[k]);
    });
    if (!fine) throw std::domain_error("probabilities that are negative, NaN or infinite");
    std::vector<std::int32_t> little;
    for (std::size_t k = 0; k < labels_; ++k) (top[k] <= savings_.pool ? little : lanes_of_).push_back(std::int32_t(k));
    if (little.size() > 1 && !lanes_of_.empty() && width_for(lanes_of_.size() + 1) < width_for(labels_)) {
        pool_.add(little, unaries_, threads_);
        layout();
    } else {
        give_all_lanes();
    }
}

// The softmax of the negative energies.
void MeanField::start() {
    if (lanes_ == 1) {
        each_block(points_, [&](std::size_t begin, std::size_t end) {
            const float *first = energy(0), *second = pool_.empty() ? energy(1) : pool_.energy();
            const float *least = unaries_.least, *other_least = pool_.empty() ? least : nullptr;
            float other[block_], high = 0, low = 1;
            load_logits(1, &first, least, q_.data() + begin, begin, end);
            load_logits(1, &second, other_least, other, begin, end);
            sigmoid(q_.data() + begin, other, end - begin, &high, &low);
        });
        return;
    }
    each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t g = 0; g < groups_; ++g) {
            float *rows = group(q_, g) + begin * lanes_;
            load_logits(int(lanes_), planes(g).data(), unaries_.least, rows, begin, end);
            for (std::size_t i = begin; i < end && holds_pool(g); ++i)
                rows[(i - begin) * lanes_ + lanes_of_.size() % lanes_] = -pool_.energy()[i];
        }
    });
    normalize();
}

void MeanField::set_lanes(const float *marginals) {
    give_all_lanes();
    each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < groups_ * lanes_; ++a) {
            float *out = group(q_, a / lanes_) + a % lanes_;
            const float *plane = a < labels_ ? marginals + a * points_ : nullptr;
            for (std::size_t i = begin; i < end; ++i) out[i * lanes_] = plane ? plane[i] : 0.0f;
        }
    });
}

// To where steps began, all labels apart from here on.
void MeanField::begin_again() {
    savings_.pool = 0;
    doubt_ = 0;
    steps_ = given_steps_;
    if (from_unaries_) {
        give_all_lanes();
        start();
    } else {
        set_lanes(given_.data());
    }
    given_ = {};
    given_steps_ = 0;
}

void MeanField::give_all_lanes() {
    lanes_of_.resize(labels_);
    std::iota(lanes_of_.begin(), lanes_of_.end(), 0);
    pool_.clear();
    layout();
}

// Floats a pixel that so many lanes take.
std::size_t MeanField::width_for(std::size_t used) const {
    if (used == 2 && alike_) return 1;
    return used <= 4 ? 4 : (used + 7) / 8 * 8;
}

void MeanField::layout() {
    const std::size_t width = width_for(lanes_used());
    lanes_ = std::min<std::size_t>(width, 8);
    groups_ = width / lanes_;
    q_.resize(width * points_);
    top_.assign(std::max<std::size_t>(width, 2), 0.0f);
    if (unaries_.are_probabilities()) {
        energies_.resize(lanes_of_.size() * points_);
        parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
            for (std::size_t a = 0; a < lanes_of_.size(); ++a)
                energies_of(unaries_, lanes_of_[a], energies_.data() + a * points_ + begin, begin, end);
        });
    }
    if (lanes_ > 1 || !whole_message_.empty()) return;
    whole_message_.assign(points_, 0.0f);
    const Buffer<float> ones(points_, 1.0f);
    for (std::size_t m = 0; m < pulls_.size(); ++m) {
        const Kernel &kernel = *pulls_[m].kernel;
        const float strength = pulls_[m].strength[0];
        kernel.lattice().splat_and_blur(nullptr, ones.data(), 1, rows_[m], spare_, threads_);
        each_block(points_, [&](std::size_t begin, std::size_t end) {
            kernel.lattice().slice(1, nullptr, rows_[m].data(), &strength, whole_message_.data() + begin, begin, end);
            for (std::size_t i = begin; i < end && kernel.own(); ++i) whole_message_[i] -= strength * kernel.own()[i];
        });
    }
}

// Energies of group g's lanes; null for those without a label.
std::vector<const float *> MeanField::planes(std::size_t g) const {
    std::vector<const float *> found(lanes_, nullptr);
    for (std::size_t k = 0; k < lanes_ && g * lanes_ + k < lanes_of_.size(); ++k) found[k] = energy(g * lanes_ + k);
    return found;
}

// Pools labels that hold little, if that saves lanes and leaves another one. True if lanes changed.
bool MeanField::adapt() {
    if (savings_.pool <= 0) return false;
    std::vector<std::int32_t> places;
    for (std::size_t a = 0; a < lanes_of_.size(); ++a)
        if (top_[a] <= savings_.pool) places.push_back(std::int32_t(a));
    if (places.empty() || places.size() == lanes_of_.size()) return false;
    if (width_for(lanes_of_.size() - places.size() + 1) >= groups_ * lanes_) return false;
    if (!from_unaries_ && given_.empty()) {  // what is known now, with all labels apart, is what to begin again from
        given_.resize(labels_ * points_);
        write(given_.data());
        given_steps_ = steps_;
    }
    pool(places);
    return true;
}

// places: of the labels to pool in lanes_of_, ascending; those that are pooled already stay so.
void MeanField::pool(const std::vector<std::int32_t> &places) {
    const Buffer<float> old = std::move(q_);
    const std::size_t stride = lanes_, old_pool = lanes_of_.size();
    const auto old_lane = [&](std::size_t a) { return old.data() + (a / stride) * points_ * stride + a % stride; };
    std::vector<const float *> kept, joining;
    std::vector<std::int32_t> kept_labels, little;
    for (std::size_t a = 0; a < lanes_of_.size(); ++a) {
        const bool joins = std::binary_search(places.begin(), places.end(), std::int32_t(a));
        (joins ? little : kept_labels).push_back(lanes_of_[a]);
        (joins ? joining : kept).push_back(old_lane(a));
    }
    if (!pool_.empty()) joining.push_back(old_lane(old_pool));
    lanes_of_ = kept_labels;
    pool_.add(little, unaries_, threads_);
    q_ = Buffer<float>();
    layout();
    each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < groups_ * lanes_; ++a) {
            float *out = group(q_, a / lanes_) + a % lanes_;
            for (std::size_t i = begin; i < end; ++i) out[i * lanes_] = a < kept.size() ? kept[a][i * stride] : 0.0f;
            if (a != kept.size()) continue;
            for (const float *from : joining)
                for (std::size_t i = begin; i < end; ++i) out[i * lanes_] += from[i * stride];
        }
    });
}

}  // namespace densecrf
