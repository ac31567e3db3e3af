#include "moments/gaps.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "arrow/reader.hpp"
#include "moments/recursion.hpp"
#include "parallel.hpp"

namespace streambn {

namespace {

// Tells which rows of a feature hold a value that is neither null, NaN nor infinite.
class Presence {
  public:
    Presence(const Column &column, int64_t feature)
        : column_(column), reader_(column, feature, 0, 0) {}

    // Writes the bits of n <= PIECE rows, and zeros to the end of the last word.
    void read(int64_t start, int n, PieceBits &bits) const {
        if (reader_.has_nulls())
            reader_.valid(start, n, bits);
        else
            bits.set_all();
        if (is_float(column_.type)) {
            alignas(64) uint8_t buffer[8 * PIECE];
            NotFinite ignored{0, 0, 0};
            kernels().find_finite[static_cast<int>(column_.type)](reader_.values(start, n, buffer), n,
                                                                  bits.octets(), &ignored);
        }
        if (n % 64) bits.word[n / 64] &= (uint64_t{1} << n % 64) - 1;
    }
    uint64_t word(int64_t start, int n) const {
        PieceBits bits;
        read(start, n, bits);
        return bits.word[0];
    }
    // Returns whether two successive values between those in rows `at` and `last` are more than
    // `most` rows apart. Of the rows that are near enough to a value, the last ones are read first.
    bool has_step_beyond(double most, int64_t at, int64_t last) const {
        while (static_cast<double>(last - at) > most) {
            int64_t stop = at + static_cast<int64_t>(most) + 1, next = at;
            while (next == at && stop > at + 1) {
                const int n = static_cast<int>(std::min<int64_t>(64, stop - at - 1));
                stop -= n;
                if (const uint64_t bits = word(stop, n)) next = stop + 63 - __builtin_clzll(bits);
            }
            if (next == at) return true;
            at = next;
        }
        return false;
    }

  private:
    const Column &column_;
    FeatureReader reader_;
};

BatchGaps gaps_of(const Column &column, int64_t feature, int64_t count, double longest) {
    const int64_t rows = column.rows;
    BatchGaps gaps;
    if (count == rows) return gaps;
    if (count == 0) {
        gaps.before = rows;
        return gaps;
    }
    const Presence presence(column, feature);
    const int n = static_cast<int>(std::min(EDGE, rows));
    const uint64_t head = presence.word(0, n), tail = rows == n ? head : presence.word(rows - n, n);
    gaps.is_long = head == 0 || tail == 0;
    if (gaps.is_long) return gaps;
    gaps.before = __builtin_ctzll(head);
    gaps.since = n - 64 + __builtin_clzll(tail);
    // Beyond this a discount may cost digits of W, C or S.
    gaps.is_long = static_cast<double>(gaps.since) > longest / 2;
    const int64_t within = rows - count - gaps.before - gaps.since;
    if (!gaps.is_long && static_cast<double>(within + 1) > longest && static_cast<double>(rows) > longest)
        gaps.is_long = presence.has_step_beyond(longest, gaps.before, rows - 1 - gaps.since);
    return gaps;
}

}  // namespace

double longest_gap(double decay) { return decay > 0 ? std::log(LEAST_FADE) / std::log(decay) : 0.0; }

std::vector<BatchGaps> find_gaps(const std::vector<Column> &columns, const std::vector<Moments> &moments,
                                 double decay, int64_t bytes, int threads) {
    std::vector<BatchGaps> gaps(moments.size());
    std::vector<size_t> firsts;
    size_t features = 0;
    for (const Column &column : columns) {
        firsts.push_back(features);
        features += static_cast<size_t>(column.width);
    }
    const double longest = longest_gap(decay);
    run_tasks<std::nullptr_t>(static_cast<int64_t>(columns.size()), bytes, threads,
                              [&](int64_t i, std::nullptr_t) {
        const Column &column = columns[static_cast<size_t>(i)];
        for (int64_t k = 0; k < column.width; ++k) {
            const size_t feature = firsts[static_cast<size_t>(i)] + static_cast<size_t>(k);
            gaps[feature] = gaps_of(column, k, moments[feature].count, longest);
        }
    });
    return gaps;
}

GappedMoments GapMerge::as_of_value(Moments m, Gaps gaps) const {
    if (m.count == 0) {
        m.decay = 1;
        return {m, gaps};
    }
    const double faded = powers_[gaps.since];
    m.weight /= faded;
    m.pairs = m.pairs / faded / faded;
    m.squares = m.squares / faded / faded;
    m.m2 = {m.m2.hi / faded, m.m2.lo / faded};
    m.decay = powers_[GAP_POWERS + gaps.before + gaps.since];
    return {m, gaps};
}

bool GapMerge::extend(GappedMoments &older, const GappedMoments &newer) const {
    const bool no_older = older.m.weight == 0, no_newer = newer.m.weight == 0;
    const int64_t between = older.gaps.since + newer.gaps.before;
    Moments m = newer.m;
    if (!no_older && !no_newer) {
        if (between < 0 || between >= GAP_POWERS) return false;
        m.decay *= std::max(powers_[between], LEAST_FADE);
    }
    older.m = merge(older.m, m);
    if (no_older)
        older.gaps = {older.gaps.before + newer.gaps.before, newer.gaps.since};
    else
        older.gaps.since = no_newer ? between : newer.gaps.since;
    return true;
}

}  // namespace streambn
