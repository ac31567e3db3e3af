#include "context.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "parallel.hpp"

namespace streambn {

Context::Context(Weighing w, int64_t rows, int threads)
    : weighing(w), exact(w.decay == 1 && !w.weights && rows <= SHORT),
      table(w.decay == 1 ? nullptr : DecayTable::of(w.decay)), rows_(rows) {
    if (!weighted()) {
        if (table && rows >= CHUNK) whole_chunk_ = table->dense(CHUNK);
        if (table) last_chunk_ = table->dense(rows % CHUNK);
        return;
    }
    made_from_ = table ? 0 : rows % 8 ? (rows - 1) / PIECE * PIECE : rows;
    const auto made = static_cast<size_t>(rows - made_from_);
    if (made > 0) {
        made_.reset(new double[made + 7]);
        std::fill_n(made_.get() + made, 7, 0.0);
        if (!table) std::memcpy(made_.get(), w.weights + made_from_, made * sizeof(double));
    }
    const int64_t chunks = (rows + CHUNK - 1) / CHUNK;
    chunks_.resize(static_cast<size_t>(chunks));
    if (!table) pieces_.resize(static_cast<size_t>((rows + PIECE - 1) / PIECE));
    run_tasks<std::nullptr_t>(chunks, rows * static_cast<int64_t>(sizeof(double)), threads,
                         [&](int64_t i, std::nullptr_t) {
                             weigh_chunk(i * CHUNK, std::min(rows, (i + 1) * CHUNK));
                         });
}

int Context::first_piece(int64_t rows) const {
    const int64_t odd = rows % PIECE;
    if (!table || odd == 0) return static_cast<int>(std::min<int64_t>(rows, PIECE));
    return static_cast<int>(odd);
}

const double *Context::piece(int64_t start, int n) const {
    if (weighted()) return start >= made_from_ ? made_.get() + (start - made_from_) : weighing.weights + start;
    return table ? table->weights(n) : nullptr;
}

void Context::weigh_chunk(int64_t start, int64_t stop) {
    Totals all;
    int n = first_piece(stop - start);
    for (int64_t at = start; at < stop; at += n, n = PIECE) {
        n = static_cast<int>(std::min<int64_t>(n, stop - at));
        if (table) {
            const double *given = weighing.weights + at, *faded = table->weights(n);
            double *product = made_.get() + at;
            for (int i = 0; i < n; ++i) product[i] = flushed(given[i] * faded[i]);
        }
        const PieceWeights piece = inner.weigh(this->piece(at, n), n, nullptr);
        all.follow(Totals(piece), table ? table->piece_factor(1) : 1.0);
        if (!table) pieces_[static_cast<size_t>(at / PIECE)] = piece;
    }
    chunks_[static_cast<size_t>(start / CHUNK)] = all.with(table ? table->power(stop - start) : 1.0);
}

Totals Context::totals_before(int64_t start) const {
    Totals all;
    for (int64_t at = start / CHUNK * CHUNK; at < start; at += PIECE) all.follow(piece_totals(at));
    return all;
}

Weighed Context::chunk(int64_t start, int64_t stop) const {
    if (weighted()) return chunks_[static_cast<size_t>(start / CHUNK)];
    if (table) return stop - start == CHUNK ? whole_chunk_ : last_chunk_;
    const auto rows = static_cast<double>(stop - start);
    return {rows, rows * (rows - 1) / 2, rows, 1};
}

}  // namespace streambn
