#include "context.hpp"

#include <algorithm>

namespace streambn {

Context::Context(Weighing w, int64_t rows)
    : weighing(w), exact(w.decay == 1 && !w.weights && rows <= SHORT),
      table(w.decay == 1 ? nullptr : DecayTable::of(w.decay)), padded_from_(rows) {
    if (!weighted()) {
        if (table && rows >= CHUNK) whole_chunk_ = table->dense(CHUNK);
        if (table) last_chunk_ = table->dense(rows % CHUNK);
        return;
    }
    // Where the last piece begins is where its chunk does, or a whole number of them before the end.
    const int64_t last = table && rows % CHUNK > PIECE ? PIECE : (rows - 1) % PIECE + 1;
    if (last % 8) {
        padded_from_ = rows - last;
        std::fill(std::copy_n(w.weights + padded_from_, last, padded_), padded_ + PIECE + 8, 0.0);
    }
    chunks_.resize(static_cast<size_t>((rows + CHUNK - 1) / CHUNK));
    if (!table) pieces_.resize(static_cast<size_t>((rows + PIECE - 1) / PIECE));
}

void Context::weigh(int64_t start, int64_t stop) {
    if (!weighted()) return;
    Totals all;
    int n = first_piece(stop - start);
    for (int64_t at = start; at < stop; at += n, n = PIECE) {
        n = static_cast<int>(std::min<int64_t>(n, stop - at));
        const PieceWeights piece =
            inner.weigh(weighing.weights + at, table ? table->weights(n) : nullptr, n);
        if (!table) pieces_[static_cast<size_t>(at / PIECE)] = piece;
        all.follow(Totals(piece), table ? table->piece_factor(1) : 1.0);
    }
    chunks_[static_cast<size_t>(start / CHUNK)] = all.with(table ? table->power(stop - start) : 1.0);
}

Weighed Context::chunk(int64_t start, int64_t stop) const {
    if (weighted()) return chunks_[static_cast<size_t>(start / CHUNK)];
    if (table) return stop - start == CHUNK ? whole_chunk_ : last_chunk_;
    const auto rows = static_cast<double>(stop - start);
    return {rows, rows * (rows - 1) / 2, rows, 1};
}

Totals Context::totals_before(int64_t start) const {
    Totals all;
    for (int64_t at = start / CHUNK * CHUNK; at < start; at += PIECE) all.follow(piece_totals(at));
    return all;
}

}  // namespace streambn
