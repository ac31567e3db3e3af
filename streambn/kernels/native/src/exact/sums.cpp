#include "exact/sums.hpp"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "arrow/reader.hpp"
#include "moments/block.hpp"
#include "parallel.hpp"

namespace streambn {

namespace {

// A sum in limbs of 32 bits. Each limb has a word of 64 bits, so carries can be deferred. Each term
// changes three limbs by less than 2**32. A task of 2**17 rows adds fewer than 2**23 terms: at most
// 48 for each of 257 pieces, and at most 32 for each row that is added on its own. Each limb
// therefore stays below 2**55, and no carry is lost.
template <size_t WORDS>
class PendingSum {
  public:
    void clear() { std::memset(limbs_, 0, sizeof limbs_); }
    // Adds amount * 2**position, for |amount| <= 2**64.
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

// The state of a feature while its range is summed.
struct FeatureSums {
    FeatureReader reader;
    ExactFeature result;
    Int256 low, high;                   // the extremes of decimals beyond 64 bits
    int64_t low_integer, high_integer;  // the extremes of integers, as in ExactPiece
    PendingSum<TOTAL_WORDS> total;
    PendingSum<SQUARES_WORDS> squares;
};

// Memory that a thread reuses for its next task.
struct ExactScratch {
    std::vector<FeatureSums> features;
    PieceBuffer buffer;
    ExactPiece piece;
};

// Adds a finite value of any exponent. The inner loops are three times as fast, but do not cover
// all exponents.
void add_number(FeatureSums &to, double value) {
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

void add_large(FeatureSums &to, const Int256 &value) {
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

bool is_valid(const uint8_t *bits, int i) { return !bits || (bits[i / 8] >> (i % 8) & 1); }

void add_terms(FeatureSums &to, const ExactPiece &piece, int unit) {
    for (int i = 0; i < piece.totals; ++i)
        to.total.add(piece.total[i].amount, piece.total[i].exponent + unit);
    for (int i = 0; i < piece.squares; ++i)
        to.squares.add(piece.square[i].amount, piece.square[i].exponent + 2 * unit);
}

// Adds decimals beyond 64 bits. Few columns use the additional digits, so a piece whose values fit
// into 64 bits is summed as 64-bit integers.
void add_decimals(const Column &column, int64_t index, int64_t start, int n, const uint8_t *bits,
                  FeatureSums &to, ExactPiece &piece) {
    const int size = size_of(column.type);
    const uint8_t *from = column.at(start, index);
    const int64_t step = column.row_step;
    alignas(64) int64_t narrow[PIECE];
    bool fits = true;
    for (int i = 0; i < n; ++i) {
        int64_t word[4];
        std::memcpy(word, from + i * step, static_cast<size_t>(size));
        const int64_t sign = word[0] >> 63;
        int64_t beyond = word[1] ^ sign;
        if (size == 32) beyond |= (word[2] ^ sign) | (word[3] ^ sign);
        narrow[i] = word[0];
        fits &= beyond == 0 || !is_valid(bits, i);
    }
    const auto extend = [&](const Int256 &low, const Int256 &high, bool first) {
        if (first || low < to.low) to.low = low;
        if (first || to.high < high) to.high = high;
    };
    bool first = to.result.count == 0;
    if (fits) {
        kernels().sum_to_integers[static_cast<int>(Type::int64)](narrow, n, bits, &piece);
        add_terms(to, piece, 0);
        return extend(Int256::from_integer(piece.low_integer), Int256::from_integer(piece.high_integer), first);
    }
    for (int i = 0; i < n; ++i) {
        if (!is_valid(bits, i)) continue;
        const Int256 value = Int256::load(from + i * step, size);
        add_large(to, value);
        extend(value, value, first);
        first = false;
    }
}

// Adds one piece of a feature. `index` is the index of the feature in its column.
void add_piece(const Column &column, int64_t index, const void *values, int64_t start, int n,
               FeatureSums &to, ExactPiece &piece) {
    const Kernels &inner = kernels();
    PieceBits bits;
    int valid = n;
    if (to.reader.has_nulls()) {
        valid = to.reader.valid(start, n, bits);
        to.result.nulls += n - valid;
        if (valid == 0) return;
    }
    const uint8_t *valid_bits = valid < n ? bits.octets() : nullptr;
    if (is_large_decimal(column.type)) {
        add_decimals(column, index, start, n, valid_bits, to, piece);
        to.result.count += valid;
        return;
    }
    const auto type = static_cast<size_t>(to.reader.type());
    Verdict verdict = inner.sum_to_integers[type](values, n, valid_bits, &piece);
    if (verdict == Verdict::not_finite) {
        if (!valid_bits) bits.set_all();
        valid_bits = bits.octets();
        NotFinite found{0, 0, 0};
        inner.find_finite[type](values, n, bits.octets(), &found);
        to.result.nans += found.nans, to.result.pos_infs += found.pos_infs, to.result.neg_infs += found.neg_infs;
        valid -= static_cast<int>(found.nans + found.pos_infs + found.neg_infs);
        if (valid == 0) return;
        verdict = inner.sum_to_integers[type](values, n, valid_bits, &piece);
    }
    if (verdict == Verdict::taken) {
        add_terms(to, piece, is_decimal(column.type) ? 0 : UNIT);
    } else {
        // Only float64 values can be out of range.
        const double *numbers = static_cast<const double *>(values);
        for (int i = 0; i < n; ++i)
            if (is_valid(valid_bits, i)) add_number(to, numbers[i]);
    }
    if (is_float(column.type)) {
        extend_range(to.result, piece.low, piece.high);
    } else if (to.result.count == 0) {
        to.low_integer = piece.low_integer, to.high_integer = piece.high_integer;
    } else {
        to.low_integer = std::min(to.low_integer, piece.low_integer);
        to.high_integer = std::max(to.high_integer, piece.high_integer);
    }
    to.result.count += valid;
}

// Returns the sums of a feature's range.
const ExactFeature &finished(const Column &column, FeatureSums &sums) {
    ExactFeature &result = sums.result;
    if (result.count == 0) return result;
    sums.total.store(result.total);
    sums.squares.store(result.squares);
    if (is_float(column.type)) return result;
    if (is_decimal(column.type)) {
        if (!is_large_decimal(column.type)) {
            sums.low = Int256::from_integer(sums.low_integer);
            sums.high = Int256::from_integer(sums.high_integer);
        }
        result.min = rounded_decimal(sums.low, column.decimal_scale);
        result.max = rounded_decimal(sums.high, column.decimal_scale);
        result.decimal = 1, result.scale = column.decimal_scale;
    } else if (column.type == Type::uint64) {
        const uint64_t flip = uint64_t{1} << 63;
        result.min = static_cast<double>(static_cast<uint64_t>(sums.low_integer) ^ flip);
        result.max = static_cast<double>(static_cast<uint64_t>(sums.high_integer) ^ flip);
    } else {
        result.min = static_cast<double>(sums.low_integer);
        result.max = static_cast<double>(sums.high_integer);
    }
    return result;
}

using ExactTask = RangeTask<ExactFeature>;

void sum_range(const ExactTask &task, ExactScratch &scratch, std::mutex &mutex) {
    const Column &column = *task.column;
    std::vector<FeatureSums> &features = scratch.features;
    while (features.size() < static_cast<size_t>(task.features))
        features.push_back({FeatureReader(column, 0, 0, 0), {}, {}, {}, 0, 0, {}, {}});
    for (int64_t k = 0; k < task.features; ++k) {
        FeatureSums &sums = features[static_cast<size_t>(k)];
        sums.reader = FeatureReader(column, task.first_feature + k, 0, 0);
        sums.result = ExactFeature{};
        sums.total.clear();
        sums.squares.clear();
    }
    if (column.type == Type::null) {
        for (int64_t k = 0; k < task.features; ++k)
            features[static_cast<size_t>(k)].result.nulls = task.stop - task.start;
    } else {
        uint8_t *const buffer = scratch.buffer.of(task.features);
        for (int64_t start = task.start; start < task.stop; start += PIECE) {
            const int n = static_cast<int>(std::min<int64_t>(PIECE, task.stop - start));
            if (task.features > 1) {
                gather_features(column, task.first_feature, static_cast<int>(task.features), start, n, buffer);
                for (int64_t k = 0; k < task.features; ++k)
                    add_piece(column, task.first_feature + k, buffer + k * FEATURE_STRIDE, start, n,
                              features[static_cast<size_t>(k)], scratch.piece);
            } else {
                FeatureSums &sums = features[0];
                const void *values =
                    is_large_decimal(column.type) ? nullptr : sums.reader.values(start, n, buffer);
                add_piece(column, task.first_feature, values, start, n, sums, scratch.piece);
            }
        }
    }
    for (int64_t k = 0; k < task.features; ++k) {
        const ExactFeature &result = finished(column, features[static_cast<size_t>(k)]);
        const std::lock_guard<std::mutex> guard(mutex);
        (void)merge(task.out[k], result);  // cannot fail: all ranges of a column have the same unit
    }
}

}  // namespace

std::vector<ExactFeature> exact_sums(const std::vector<Column> &columns, int threads) {
    const Extents extents(columns);
    std::vector<ExactFeature> results(static_cast<size_t>(extents.features));
    const int64_t rows = columns.empty() ? 0 : columns.front().rows;
    std::vector<ExactTask> tasks;
    for (int64_t start = 0; start < rows; start += RANGE) {
        ExactFeature *out = results.data();
        for (const Column &column : columns) {
            const int64_t together = features_together(column);
            for (int64_t first = 0; first < column.width; first += together)
                tasks.push_back({&column, first, std::min(together, column.width - first), start,
                                 std::min(rows, start + RANGE), out + first});
            out += column.width;
        }
    }
    // The ranges merge in the order in which they finish. Exact sums do not depend on that order.
    std::mutex mutex;
    run_tasks<ExactScratch>(static_cast<int64_t>(tasks.size()), extents.bytes, threads,
                            [&](int64_t i, ExactScratch &scratch) {
                                sum_range(tasks[static_cast<size_t>(i)], scratch, mutex);
                            });
    return results;
}

}  // namespace streambn
