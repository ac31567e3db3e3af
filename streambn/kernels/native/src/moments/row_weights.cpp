#include "moments/row_weights.hpp"

#include "moments/block.hpp"

namespace streambn {

RowWeighting::RowWeighting(Weighting w, int64_t rows)
    : weighting(w), precise(w.decay == 1 && !w.weights && rows <= SHORT),
      table(w.decay == 1 ? nullptr : DecayTable::of(w.decay)), padded_from_(rows) {
    if (!weighted()) {
        if (table && rows >= CHUNK) whole_chunk_ = table->dense(CHUNK);
        if (table) last_chunk_ = table->dense(rows % CHUNK);
        return;
    }
    // `last` is the size of the last piece. In a chunk of fading rows, the first piece is the short
    // one, so the last piece is whole if the chunk has more than one.
    const int64_t last = table && rows % CHUNK > PIECE ? PIECE : (rows - 1) % PIECE + 1;
    if (last % 8) {
        padded_from_ = rows - last;
        std::fill(std::copy_n(w.weights + padded_from_, last, padded_), padded_ + PIECE + 8, 0.0);
    }
    chunks_.resize(static_cast<size_t>((rows + CHUNK - 1) / CHUNK));
    if (!table) pieces_.resize(static_cast<size_t>((rows + PIECE - 1) / PIECE));
}

void RowWeighting::weigh(int64_t start, int64_t stop) {
    if (!weighted()) return;
    RunningWeights all;
    int n = first_piece(stop - start);
    for (int64_t at = start; at < stop; at += n, n = PIECE) {
        n = static_cast<int>(std::min<int64_t>(n, stop - at));
        const PieceWeights piece =
            inner.weigh(weighting.weights + at, table ? table->weights(n) : nullptr, n);
        if (!table) pieces_[static_cast<size_t>(at / PIECE)] = piece;
        all.append(RunningWeights(piece), table ? table->piece_factor(1) : 1.0);
    }
    chunks_[static_cast<size_t>(start / CHUNK)] = all.totals(table ? table->power(stop - start) : 1.0);
}

WeightTotals RowWeighting::chunk(int64_t start, int64_t stop) const {
    if (weighted()) return chunks_[static_cast<size_t>(start / CHUNK)];
    if (table) return stop - start == CHUNK ? whole_chunk_ : last_chunk_;
    const auto rows = static_cast<double>(stop - start);
    return {rows, rows * (rows - 1) / 2, rows, 1};
}

RunningWeights RowWeighting::totals_before(int64_t start) const {
    RunningWeights all;
    for (int64_t at = start / CHUNK * CHUNK; at < start; at += PIECE) all.append(piece_totals(at));
    return all;
}

}  // namespace streambn
