// Parquet files as Python sees them: which of their chunks can be read here, and their rows.
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "pages.hpp"
#include "parallel.hpp"
#include "python.hpp"
#include "thrift.hpp"

namespace streambn {

namespace {

constexpr char MAGIC[] = "PAR1";
constexpr int64_t TAIL = 8;

Chunk column_meta(Thrift &thrift) {
    Chunk chunk;
    int64_t dictionary = 0;
    thrift.fields([&](int64_t number, int type) {
        switch (number) {
        case 1: chunk.type = thrift.int32(type); break;
        case 4: chunk.codec = thrift.int32(type); break;
        case 5: chunk.values = thrift.int64(type); break;
        case 7: chunk.length = thrift.int64(type); break;
        case 9: chunk.offset = thrift.int64(type); break;
        case 11: dictionary = thrift.int64(type); break;
        default: thrift.skip(type);
        }
    });
    // The dictionary is in front of what refers to it, if its place is told at all.
    if (dictionary > 0 && dictionary < chunk.offset) chunk.offset = dictionary;
    return chunk;
}

Chunk column(Thrift &thrift) {
    Chunk chunk;
    bool elsewhere = false;
    thrift.fields([&](int64_t number, int type) {
        if (number == 3 && type == Thrift::STRUCT) {
            chunk = column_meta(thrift);
        } else {
            // In another file, or encrypted.
            elsewhere |= number == 1 || number == 8 || number == 9;
            thrift.skip(type);
        }
    });
    return elsewhere ? Chunk{} : chunk;
}

// The chunks of each row group; none if the footer makes no sense.
std::vector<std::vector<Chunk>> chunks_of(int file) {
    struct stat status;
    if (fstat(file, &status) != 0 || status.st_size < TAIL) return {};
    std::vector<uint8_t> tail(TAIL);
    if (!read_at(file, status.st_size - TAIL, tail.data(), tail.size())) return {};
    uint32_t length;
    std::memcpy(&length, tail.data(), sizeof length);
    if (std::memcmp(tail.data() + 4, MAGIC, 4) != 0 || length > status.st_size - TAIL) return {};
    const int64_t start = status.st_size - TAIL - length;
    std::vector<uint8_t> footer(length);
    if (!read_at(file, start, footer.data(), footer.size())) return {};
    std::vector<std::vector<Chunk>> groups;
    Thrift thrift(footer.data(), footer.size());
    thrift.fields([&](int64_t number, int type) {
        if (number != 4 || type != Thrift::LIST) return thrift.skip(type);
        thrift.items([&](int group) {
            if (group != Thrift::STRUCT) return thrift.skip(group);
            groups.emplace_back();
            thrift.fields([&](int64_t field, int of) {
                if (field != 1 || of != Thrift::LIST) return thrift.skip(of);
                thrift.items([&](int item) {
                    if (item != Thrift::STRUCT) return thrift.skip(item);
                    Chunk chunk = column(thrift);
                    // Chunks lie between the mark at the beginning and the footer.
                    if (chunk.offset < 4 || chunk.length < 0 || chunk.offset > start ||
                        chunk.length > start - chunk.offset)
                        chunk = {};
                    groups.back().push_back(chunk);
                });
            });
        });
    });
    if (!thrift.sound()) groups.clear();
    return groups;
}

// What the rows of some columns are decoded into, for as long as Python has it.
class Decoded {
  public:
    Room room;
};

// Some columns of a row group, some rows at a time.
class FlatReader {
  public:
    explicit FlatReader(std::vector<ChunkReader> columns) : columns_(std::move(columns)) {}

    // Decode the next rows. Returns what owns the memory, and for each column where its values and
    // its bitmap are and how many are null; None: Arrow has to read it.
    nb::object read(int64_t rows, int threads) {
        if (rows < 0 || rows > MOST_ROWS) throw std::invalid_argument("so many rows are no batch");
        const Turn turn(busy_);
        if (declined_) return nb::none();
        declined_ = true;  // unless all goes well: a chunk that stopped half-way cannot go on
        const size_t count = columns_.size();
        std::vector<int64_t> values(count), bits(count), nulls(count);
        int64_t size = 0;
        for (size_t i = 0; i < count; ++i) {
            size += ChunkReader::IN_FRONT;
            values[i] = size;
            size += aligned(rows * columns_[i].width());
            bits[i] = size;
            if (columns_[i].optional()) size += aligned((rows + 63) / 64 * 8);
        }
        std::unique_ptr<Decoded> decoded(new Decoded);
        uint8_t *const base = decoded->room.of(static_cast<size_t>(size + ALIGNMENT));
        uint8_t *const memory = base + (-reinterpret_cast<uintptr_t>(base) & (ALIGNMENT - 1));
        {
            const nb::gil_scoped_release released;
            run_tasks<Room>(static_cast<int64_t>(count), size, threads, [&](int64_t i, Room &scratch) {
                const auto at = static_cast<size_t>(i);
                uint8_t *const validity = columns_[at].optional() ? memory + bits[at] : nullptr;
                nulls[at] = columns_[at].read(rows, memory + values[at], validity, scratch);
            });
        }
        nb::list places;
        for (size_t i = 0; i < count; ++i) {
            if (nulls[i] == ChunkReader::DECLINED) return nb::none();
            const auto address = reinterpret_cast<uintptr_t>(memory);
            places.append(nb::make_tuple(address + static_cast<uintptr_t>(values[i]),
                                         address + static_cast<uintptr_t>(bits[i]), nulls[i]));
        }
        declined_ = false;
        return nb::make_tuple(
            nb::cast(decoded.release(), nb::rv_policy::take_ownership), places);
    }

  private:
    static constexpr int64_t MOST_ROWS = 1 << 28, ALIGNMENT = 64;
    static int64_t aligned(int64_t size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

    // One thread at a time.
    class Turn {
      public:
        explicit Turn(std::atomic<bool> &busy) : busy_(busy) {
            if (busy_.exchange(true)) throw std::invalid_argument("another thread reads from this");
        }
        ~Turn() { busy_ = false; }

      private:
        std::atomic<bool> &busy_;
    };

    std::vector<ChunkReader> columns_;
    bool declined_ = false;
    std::atomic<bool> busy_{false};
};

// An open file, for as long as whoever opened it leaves it open.
class FlatFile {
  public:
    explicit FlatFile(int file) : file_(file), groups_(chunks_of(file)) {}

    // Read columns of a row group: the place of each among all, its type, whether it may have
    // nulls. None: Arrow has to read them.
    nb::object reader(int64_t group, int64_t rows, const nb::list &wanted) const {
        if (group < 0 || group >= static_cast<int64_t>(groups_.size())) return nb::none();
        const std::vector<Chunk> &chunks = groups_[static_cast<size_t>(group)];
        std::vector<ChunkReader> columns;
        for (const nb::handle item : wanted) {
            const auto column = nb::cast<nb::tuple>(item);
            const auto leaf = nb::cast<int64_t>(column[0]), type = nb::cast<int64_t>(column[1]);
            if (leaf < 0 || leaf >= static_cast<int64_t>(chunks.size())) return nb::none();
            const Chunk &chunk = chunks[static_cast<size_t>(leaf)];
            const bool known = chunk.codec == static_cast<int64_t>(Codec::none) ||
                               chunk.codec == static_cast<int64_t>(Codec::snappy);
            if (!known || chunk.type != type || chunk.values != rows) return nb::none();
            columns.emplace_back(file_, chunk, nb::cast<bool>(column[2]));
        }
        return nb::cast(new FlatReader(std::move(columns)), nb::rv_policy::take_ownership);
    }

  private:
    int file_;
    std::vector<std::vector<Chunk>> groups_;
    Keeping keeping_;
};

}  // namespace

void bind_parquet(nb::module_ &module) {
    nb::class_<Decoded>(module, "Decoded");
    nb::class_<FlatReader>(module, "FlatReader").def("read", &FlatReader::read);
    nb::class_<FlatFile>(module, "FlatFile").def(nb::init<int>()).def("reader", &FlatFile::reader);
}

}  // namespace streambn
