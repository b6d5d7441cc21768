// Which labels have a lane of their own and which are merged, and what the lanes hold at first; see
// mean_field.hpp.
// SPDX-License-Identifier: MIT
#include <numeric>

#include "mean_field.hpp"

namespace densecrf {

// The energies of a lane's label, relative to min_energy_ where that is not empty.
const float *MeanField::lane_energy(std::size_t a) const {
    return unaries_.are_probabilities() ? energies_.data() + a * points_ : unaries_.plane(lane_labels_[a]);
}

// Negative energies of a group, in rows, for points [begin, end), at most block_.
void MeanField::load_unaries(std::size_t g, float *rows, std::size_t begin, std::size_t end) const {
    if (lanes_ == 1) {
        const float *first = lane_energy(0);
        load_logits(1, &first, unaries_.min_energy, rows, begin, end);
        return;
    }
    if (!unary_rows_.empty()) {
        std::copy_n(unary_rows_.data() + (g * points_ + begin) * lanes_, (end - begin) * lanes_, rows);
        return;
    }
    float energies[8 * block_];
    const float *planes[8] = {};
    for (std::size_t k = 0; k < lanes_ && g * lanes_ + k < lane_labels_.size(); ++k) {
        label_energies(unaries_, lane_labels_[g * lanes_ + k], energies + k * block_, begin, end);
        planes[k] = energies + k * block_;
    }
    load_logits(int(lanes_), planes, nullptr, rows, 0, end - begin);
}

// The number of floats that a pixel needs for so many lanes.
std::size_t MeanField::width_for(std::size_t used) const {
    if (used == 2 && same_strengths_) return 1;
    return used <= 4 ? 4 : (used + 7) / 8 * 8;
}

// Sets the size of rows and groups, and computes what depends on it.
void MeanField::allocate_lanes() {
    const std::size_t width = width_for(lanes_used());
    lanes_ = std::min<std::size_t>(width, 8);
    groups_ = width / lanes_;
    q_.resize(width * points_);
    findings_.reset(std::max<std::size_t>(width, 2));
    is_splatted_ = false;
    unary_rows_ = {};
    energies_ = {};
    if (lanes_ == 1 && unaries_.are_probabilities()) {
        energies_.resize(lane_labels_.size() * points_);
        parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
            for (std::size_t a = 0; a < lane_labels_.size(); ++a)
                label_energies(unaries_, lane_labels_[a], energies_.data() + a * points_ + begin, begin, end);
        });
    }
    if (lanes_ == 1 && constant_message_.empty()) compute_constant_message();
}

void MeanField::compute_constant_message() {
    constant_message_.assign(points_, 0.0f);
    const Buffer<float> ones(points_, 1.0f);
    for (std::size_t m = 0; m < terms_.size(); ++m) {
        const Kernel &kernel = *terms_[m].kernel;
        const float strength = terms_[m].strengths[0], *self = kernel.self_weights();
        kernel.lattice().splat_and_blur(nullptr, ones.data(), 1, vertex_rows_[m], scratch_, threads_);
        for_each_block(points_, [&](std::size_t begin, std::size_t end) {
            kernel.lattice().slice(1, nullptr, vertex_rows_[m].data(), &strength,
                                   constant_message_.data() + begin, begin, end);
            for (std::size_t i = begin; i < end && self; ++i) constant_message_[i] -= strength * self[i];
        });
    }
}

// Merges labels that are unlikely by their unaries, unless that would be all of them. Checks the unaries.
void MeanField::choose_lanes() {
    std::vector<float> highest(labels_, 0.0f);
    bool valid = true;
    std::mutex mutex;
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        std::vector<float> part_highest(labels_, 0.0f);
        bool part_valid = true;
        in_pieces(begin, end, 16 * block_, [&](std::size_t i, std::size_t stop) {
            part_valid = scan_unaries(unaries_, part_highest.data(), i, stop) && part_valid;
        });
        const std::lock_guard<std::mutex> lock(mutex);
        valid = valid && part_valid;
        for (std::size_t k = 0; k < labels_; ++k) highest[k] = std::max(highest[k], part_highest[k]);
    });
    if (!valid) throw std::domain_error("probabilities that are negative, NaN or infinite");
    std::vector<std::int32_t> unlikely;
    for (std::size_t k = 0; k < labels_; ++k)
        (highest[k] <= approximations_.merge_threshold ? unlikely : lane_labels_).push_back(std::int32_t(k));
    if (unlikely.size() > 1 && !lane_labels_.empty() &&
        width_for(lane_labels_.size() + 1) < width_for(labels_)) {
        merged_.add(unlikely, unaries_, threads_);
        allocate_lanes();
        store_unary_rows();
    } else {
        separate_all_labels();
    }
}

void MeanField::separate_all_labels() {
    lane_labels_.resize(labels_);
    std::iota(lane_labels_.begin(), lane_labels_.end(), 0);
    merged_.clear();
    allocate_lanes();
    store_unary_rows();
}

// Sets the marginals to the softmax of the negative energies.
void MeanField::start_from_unaries() {
    if (lanes_ == 1) {
        for_each_block(points_, [&](std::size_t begin, std::size_t end) {
            const float *first = lane_energy(0),
                        *second = merged_.empty() ? lane_energy(1) : merged_.energy();
            const float *min_energy = unaries_.min_energy,
                        *other_min_energy = merged_.empty() ? min_energy : nullptr;
            float other[block_], high = 0, low = 1;
            load_logits(1, &first, min_energy, q_.data() + begin, begin, end);
            load_logits(1, &second, other_min_energy, other, begin, end);
            sigmoid(q_.data() + begin, other, end - begin, &high, &low);
        });
        return;
    }
    for_each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t g = 0; g < groups_; ++g) {
            float *rows = group(q_, g) + begin * lanes_;
            load_unaries(g, rows, begin, end);
            for (std::size_t i = begin; i < end && has_merged_lane(g); ++i)
                rows[(i - begin) * lanes_ + lane_labels_.size() % lanes_] = -merged_.energy()[i];
        }
    });
    normalize();
}

void MeanField::start_from_marginals(const float *marginals) {
    separate_all_labels();
    for_each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < groups_ * lanes_; ++a) {
            float *out = group(q_, a / lanes_) + a % lanes_;
            const float *plane = a < labels_ ? marginals + a * points_ : nullptr;
            for (std::size_t i = begin; i < end; ++i) out[i * lanes_] = plane ? plane[i] : 0.0f;
        }
    });
}

// Goes back to where the steps began, and keeps all labels separate from here on.
void MeanField::restart_without_merging() {
    approximations_.merge_threshold = 0;
    steps_ = restart_step_;
    if (starts_from_unaries_) {
        separate_all_labels();
        start_from_unaries();
    } else {
        start_from_marginals(restart_marginals_.data());
    }
    restart_marginals_ = {};
    restart_step_ = 0;
}

// The number of points that merging a lane may change too much, if they are scattered over the tiles of an
// image; in small images none. An object of 100 pixels, in at most four tiles, has more than max_tile_held_ in one.
std::size_t MeanField::merge_point_limit() const { return std::size_t(3e-4 * double(points_)); }

// The number of points that merging may change too much in a step; in small images none.
std::size_t MeanField::merge_error_point_limit() const { return 5 * merge_point_limit(); }

// The lanes that may be merged: those that are unlikely everywhere, and, after a step of several groups,
// those whose probability x message is large at few points. (A label with a probability here and there, but
// no message from around, fades or stays a speckle; one that will have an object has a message there.) Empty
// if merging them saves no lanes or leaves no other label.
std::vector<std::int32_t> MeanField::unlikely_lanes() const {
    std::vector<std::int32_t> unlikely;
    if (approximations_.merge_threshold <= 0) return unlikely;
    const std::int64_t taken = steps_ - restart_step_;
    // A restart would cost too much later.
    const bool is_early = taken > 0 && taken <= 3 && counts_held();
    for (std::size_t a = 0; a < lane_labels_.size(); ++a) {
        const bool is_held = !is_early || findings_.held[a] > merge_point_limit() ||
                             findings_.max_tile_held[a] > max_tile_held_;
        if (!is_held || findings_.max_probability[a] <= approximations_.merge_threshold)
            unlikely.push_back(std::int32_t(a));
    }
    const bool saves = width_for(lane_labels_.size() - unlikely.size() + 1) < groups_ * lanes_;
    if (unlikely.size() == lane_labels_.size() || !saves) unlikely.clear();
    return unlikely;
}

// Merges labels that have become unlikely. True if lanes changed.
bool MeanField::merge_unlikely_labels() {
    if (is_splatted_) return false;
    const std::vector<std::int32_t> unlikely = unlikely_lanes();
    if (unlikely.empty()) return false;
    if (!starts_from_unaries_ &&
        restart_marginals_.empty()) {  // a restart begins from here, where all are separate
        restart_marginals_.resize(labels_ * points_);
        write_marginals(restart_marginals_.data());
        restart_step_ = steps_;
    }
    merge_lanes(unlikely);
    return true;
}

// Adds lanes, given by their numbers in ascending order, to the merged lane. Labels that are merged already
// stay so.
void MeanField::merge_lanes(const std::vector<std::int32_t> &lanes) {
    for (Buffer<float> &rows : vertex_rows_) rows = Buffer<float>();  // room for what follows
    scratch_ = Buffer<float>();
    Buffer<float> old = std::move(q_);
    const std::size_t stride = lanes_;
    const auto old_lane = [&](std::size_t a) {
        return old.data() + (a / stride) * points_ * stride + a % stride;
    };
    std::vector<const float *> separate, merging;
    std::vector<std::int32_t> separate_labels, merging_labels;
    for (std::size_t a = 0; a < lane_labels_.size(); ++a) {
        const bool merges = std::binary_search(lanes.begin(), lanes.end(), std::int32_t(a));
        (merges ? merging_labels : separate_labels).push_back(lane_labels_[a]);
        (merges ? merging : separate).push_back(old_lane(a));
    }
    if (!merged_.empty()) merging.push_back(old_lane(lane_labels_.size()));
    lane_labels_ = separate_labels;
    merged_.add(merging_labels, unaries_, threads_);
    q_ = Buffer<float>();
    allocate_lanes();
    for_each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < groups_ * lanes_; ++a) {
            float *out = group(q_, a / lanes_) + a % lanes_;
            for (std::size_t i = begin; i < end; ++i)
                out[i * lanes_] = a < separate.size() ? separate[a][i * stride] : 0.0f;
            if (a != separate.size()) continue;
            for (const float *from : merging)
                for (std::size_t i = begin; i < end; ++i) out[i * lanes_] += from[i * stride];
        }
    });
    old = Buffer<float>();  // large, and not needed together with what follows
    store_unary_rows();
}

}  // namespace densecrf
