#include "exact.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "kernels.hpp"
#include "lanes.hpp"
#include "parallel.hpp"
#include "reduce.hpp"

namespace streambn {

namespace {

// A sum under way: limbs of 32 bits in words of 64, whose carries wait. A part that is added
// moves three limbs by less than 2**32 each. In a task of 2**17 rows, 257 pieces at most have at
// most 48 parts each, and rows that are taken one by one at most 32 each: fewer than 2**23 in all,
// so that a limb stays below 2**55 and no carry is lost. What leaves a task has 64 bits a limb.
template <size_t WORDS>
class Pending {
  public:
    void clear() { std::memset(limbs_, 0, sizeof limbs_); }
    // Add amount * 2**position, |amount| <= 2**64. The sum of a task is nowhere near the ends.
    void add(__int128 amount, int position) {
        const unsigned __int128 shifted = static_cast<unsigned __int128>(amount) << (position % 32);
        int64_t *limb = limbs_ + position / 32;
        limb[0] += static_cast<uint32_t>(shifted);
        limb[1] += static_cast<uint32_t>(shifted >> 32);
        limb[2] += static_cast<int64_t>(shifted >> 64);
    }
    void store(Word *to) const {
        int64_t carry = 0;
        for (size_t i = 0; i < WORDS; ++i) {
            const int64_t low = limbs_[2 * i] + carry;
            const int64_t high = limbs_[2 * i + 1] + (low >> 32);
            to[i] = static_cast<uint32_t>(low) | static_cast<Word>(static_cast<uint32_t>(high)) << 32;
            carry = high >> 32;
        }
    }

  private:
    int64_t limbs_[2 * WORDS];
};
static_assert(RANGE <= int64_t{1} << 17, "the bound of the limbs");

bool is_large(Type type) { return type == Type::decimal128 || type == Type::decimal256; }
bool is_decimal(Type type) { return type >= Type::decimal32 && type <= Type::decimal256; }

// A lane while its range is summed.
struct LaneSums {
    LaneReader reader;
    ExactLane lane;
    Int256 low, high;               // of decimals beyond 64 bits
    int64_t low_integer, high_integer;  // as an inner loop gives them
    Pending<TOTAL_WORDS> total;
    Pending<SQUARES_WORDS> squares;
};

struct Scratch {
    std::vector<LaneSums> lanes;
    std::vector<uint8_t> room;
    ExactPiece piece;
};

// A finite value, whatever its exponent: three times as slow as the inner loops are at 30 decades.
void add_number(LaneSums &to, double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const int field = static_cast<int>(bits >> 52 & 0x7ff);
    const uint64_t fraction = bits & ((uint64_t{1} << 52) - 1);
    const uint64_t digits = field ? fraction | uint64_t{1} << 52 : fraction;
    const int position = field ? field - 1 : 0;
    const auto integer = static_cast<int64_t>(digits);
    to.total.add(bits >> 63 ? -integer : integer, position);
    const unsigned __int128 square = static_cast<unsigned __int128>(digits) * digits;
    to.squares.add(static_cast<uint64_t>(square), 2 * position);
    to.squares.add(static_cast<uint64_t>(square >> 64), 2 * position + 64);
}

void add_large(LaneSums &to, const Int256 &value) {
    const bool negative = value.negative();
    const Int256 size = negative ? Int256{} - value : value;
    int words = 4;
    while (words > 0 && !size.word[words - 1]) --words;
    for (int i = 0; i < words; ++i) {
        const __int128 word = size.word[i];
        to.total.add(negative ? -word : word, 64 * i);
        for (int k = 0; k < words; ++k) {
            const unsigned __int128 product = static_cast<unsigned __int128>(size.word[i]) * size.word[k];
            to.squares.add(static_cast<uint64_t>(product), 64 * (i + k));
            to.squares.add(static_cast<uint64_t>(product >> 64), 64 * (i + k + 1));
        }
    }
}

bool is_there(const uint8_t *bits, int i) { return !bits || (bits[i / 8] >> (i % 8) & 1); }

void add_terms(LaneSums &to, const ExactPiece &piece, int unit) {
    for (int i = 0; i < piece.totals; ++i)
        to.total.add(piece.total[i].amount, piece.total[i].exponent + unit);
    for (int i = 0; i < piece.squares; ++i)
        to.squares.add(piece.square[i].amount, piece.square[i].exponent + 2 * unit);
}

// Decimals beyond 64 bits. Hardly any has so many digits: a piece that has none is summed as
// integers of 64 bits.
void add_decimals(const Leaf &leaf, int64_t index, int64_t start, int n, const uint8_t *bits,
                  LaneSums &to, ExactPiece &piece) {
    const int size = size_of(leaf.type);
    const uint8_t *from = leaf.values + (start * leaf.width + index) * size;
    const int64_t step = leaf.width * size;
    alignas(64) int64_t narrow[PIECE];
    bool fits = true;
    for (int i = 0; i < n; ++i) {
        int64_t word[4];
        std::memcpy(word, from + i * step, static_cast<size_t>(size));
        const int64_t sign = word[0] >> 63;
        int64_t beyond = word[1] ^ sign;
        if (size == 32) beyond |= (word[2] ^ sign) | (word[3] ^ sign);
        narrow[i] = word[0];
        fits &= beyond == 0 || !is_there(bits, i);
    }
    const auto extend = [&](const Int256 &low, const Int256 &high, bool first) {
        if (first || low < to.low) to.low = low;
        if (first || to.high < high) to.high = high;
    };
    bool first = to.lane.count == 0;
    if (fits) {
        kernels().sum_to_integers[static_cast<int>(Type::int64)](narrow, n, bits, &piece);
        add_terms(to, piece, 0);
        const auto wide = [](int64_t x) {
            const __int128 both = x;
            return Int256::load(reinterpret_cast<const uint8_t *>(&both), 16);
        };
        return extend(wide(piece.low_integer), wide(piece.high_integer), first);
    }
    for (int i = 0; i < n; ++i) {
        if (!is_there(bits, i)) continue;
        const Int256 value = Int256::load(from + i * step, size);
        add_large(to, value);
        extend(value, value, first);
        first = false;
    }
}

// `index`: of the lane in its column.
void add_piece(const Leaf &leaf, int64_t index, const void *values, int64_t start, int n,
               LaneSums &to, ExactPiece &piece) {
    const Kernels &inner = kernels();
    PieceBits bits;
    int valid = n;
    if (to.reader.has_nulls()) {
        valid = to.reader.valid(start, n, bits);
        to.lane.nulls += n - valid;
        if (valid == 0) return;
    }
    const uint8_t *there = valid < n ? bits.octets() : nullptr;
    if (is_large(leaf.type)) {
        add_decimals(leaf, index, start, n, there, to, piece);
        to.lane.count += valid;
        return;
    }
    const auto type = static_cast<size_t>(to.reader.type());
    Verdict verdict = inner.sum_to_integers[type](values, n, there, &piece);
    if (verdict == Verdict::not_finite) {
        if (!there) std::memset(&bits, 0xff, sizeof bits);
        there = bits.octets();
        NotFinite found{0, 0, 0};
        inner.find_finite[type](values, n, bits.octets(), &found);
        to.lane.nans += found.nans, to.lane.pos_infs += found.pos_infs, to.lane.neg_infs += found.neg_infs;
        valid -= static_cast<int>(found.nans + found.pos_infs + found.neg_infs);
        if (valid == 0) return;
        verdict = inner.sum_to_integers[type](values, n, there, &piece);
    }
    if (verdict == Verdict::taken) {
        add_terms(to, piece, is_decimal(leaf.type) ? 0 : UNIT);
    } else {
        const double *numbers = static_cast<const double *>(values);  // only of these
        for (int i = 0; i < n; ++i)
            if (is_there(there, i)) add_number(to, numbers[i]);
    }
    if (is_float(leaf.type)) {
        widen(to.lane, piece.low, piece.high);
    } else if (to.lane.count == 0) {
        to.low_integer = piece.low_integer, to.high_integer = piece.high_integer;
    } else {
        to.low_integer = std::min(to.low_integer, piece.low_integer);
        to.high_integer = std::max(to.high_integer, piece.high_integer);
    }
    to.lane.count += valid;
}

// What a lane's range comes to.
const ExactLane &finish(const Leaf &leaf, LaneSums &sums) {
    ExactLane &lane = sums.lane;
    if (lane.count == 0) return lane;
    sums.total.store(lane.total);
    sums.squares.store(lane.squares);
    if (is_float(leaf.type)) return lane;
    if (is_decimal(leaf.type)) {
        if (!is_large(leaf.type)) {
            const __int128 low = sums.low_integer, high = sums.high_integer;
            sums.low = Int256::load(reinterpret_cast<const uint8_t *>(&low), 16);
            sums.high = Int256::load(reinterpret_cast<const uint8_t *>(&high), 16);
        }
        lane.min = rounded_decimal(sums.low, leaf.decimal_scale);
        lane.max = rounded_decimal(sums.high, leaf.decimal_scale);
        lane.decimal = 1, lane.scale = leaf.decimal_scale;
    } else if (leaf.type == Type::uint64) {
        const uint64_t flip = uint64_t{1} << 63;
        lane.min = static_cast<double>(static_cast<uint64_t>(sums.low_integer) ^ flip);
        lane.max = static_cast<double>(static_cast<uint64_t>(sums.high_integer) ^ flip);
    } else {
        lane.min = static_cast<double>(sums.low_integer);
        lane.max = static_cast<double>(sums.high_integer);
    }
    return lane;
}

// Adjacent lanes of one column over one range of rows.
struct Task {
    const Leaf *leaf;
    int64_t first_lane, lanes;  // of the column
    int64_t start, stop;
    ExactLane *out;  // of `lanes`
};

void sum_range(const Task &task, Scratch &scratch, std::mutex &mutex) {
    const Leaf &leaf = *task.leaf;
    std::vector<LaneSums> &lanes = scratch.lanes;
    while (lanes.size() < static_cast<size_t>(task.lanes))
        lanes.push_back({LaneReader(leaf, 0, 0, 0), {}, {}, {}, 0, 0, {}, {}});
    for (int64_t k = 0; k < task.lanes; ++k) {
        LaneSums &sums = lanes[static_cast<size_t>(k)];
        sums.reader = LaneReader(leaf, task.first_lane + k, 0, 0);
        sums.lane = ExactLane{};
        sums.total.clear();
        sums.squares.clear();
    }
    if (leaf.type == Type::null) {
        for (int64_t k = 0; k < task.lanes; ++k)
            lanes[static_cast<size_t>(k)].lane.nulls = task.stop - task.start;
    } else {
        scratch.room.resize(static_cast<size_t>(task.lanes * LANE_STRIDE));
        uint8_t *const room = scratch.room.data();
        for (int64_t start = task.start; start < task.stop; start += PIECE) {
            const int n = static_cast<int>(std::min<int64_t>(PIECE, task.stop - start));
            if (task.lanes > 1) {
                gather_lanes(leaf, task.first_lane, static_cast<int>(task.lanes), start, n, room);
                for (int64_t k = 0; k < task.lanes; ++k)
                    add_piece(leaf, task.first_lane + k, room + k * LANE_STRIDE, start, n,
                              lanes[static_cast<size_t>(k)], scratch.piece);
            } else {
                LaneSums &sums = lanes[0];
                const void *values = is_large(leaf.type) ? nullptr : sums.reader.values(start, n, room);
                add_piece(leaf, task.first_lane, values, start, n, sums, scratch.piece);
            }
        }
    }
    for (int64_t k = 0; k < task.lanes; ++k) {
        const ExactLane &lane = finish(leaf, lanes[static_cast<size_t>(k)]);
        const std::lock_guard<std::mutex> guard(mutex);
        (void)merge(task.out[k], lane);  // of one column: the same unit
    }
}

}  // namespace

std::vector<ExactLane> exact_sums(const std::vector<Leaf> &leaves, int threads) {
    int64_t lanes = 0, bytes = 0;
    for (const Leaf &leaf : leaves) {
        lanes += leaf.width;
        bytes += leaf.rows * leaf.width * size_of(leaf.type);
    }
    std::vector<ExactLane> results(static_cast<size_t>(lanes));
    const int64_t rows = leaves.empty() ? 0 : leaves.front().rows;
    std::vector<Task> tasks;
    for (int64_t start = 0; start < rows; start += RANGE) {
        ExactLane *out = results.data();
        for (const Leaf &leaf : leaves) {
            const int64_t together = lanes_together(leaf);
            for (int64_t lane = 0; lane < leaf.width; lane += together)
                tasks.push_back({&leaf, lane, std::min(together, leaf.width - lane), start,
                                 std::min(rows, start + RANGE), out + lane});
            out += leaf.width;
        }
    }
    // Whoever comes first: the sums do not depend on it.
    std::mutex mutex;
    run_tasks<Scratch>(static_cast<int64_t>(tasks.size()), bytes, threads,
                       [&](int64_t i, Scratch &scratch) {
                           sum_range(tasks[static_cast<size_t>(i)], scratch, mutex);
                       });
    return results;
}

}  // namespace streambn
