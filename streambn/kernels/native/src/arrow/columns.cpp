#include "arrow/columns.hpp"

#include <charconv>
#include <cstring>
#include <string_view>

namespace streambn {

namespace {

struct Format {
    Type type;
    int decimal_scale = 0;
};

[[noreturn]] void malformed(const std::string &what) {
    throw MalformedBatch(what + ". The producer breaks the Arrow C data interface.");
}

std::string shown(const char *text) { return text ? "'" + std::string(text) + "'" : "none"; }

// Parses the format "d:precision,scale[,bits]".
Format decimal_format(const char *format) {
    const char *end = format + std::strlen(format), *at = format + 2;
    int numbers[3] = {0, 0, 128}, n = 0;
    for (; n < 3 && at < end; ++n) {
        const auto [next, error] = std::from_chars(at, end, numbers[n]);
        if (error != std::errc{} || (next != end && *next != ',')) break;
        at = next == end ? end : next + 1;
    }
    const int precision = numbers[0], scale = numbers[1], bits = numbers[2];
    if (n < 2 || at != end || end[-1] == ',' || precision < 1 || scale < -400 || scale > 400)
        malformed("the format " + shown(format) + " is not a decimal");
    if (bits == 32 && precision <= 9) return {Type::decimal32, scale};
    if (bits == 64 && precision <= 18) return {Type::decimal64, scale};
    if (bits == 128 && precision <= 38) return {Type::decimal128, scale};
    if (bits == 256 && precision <= 76) return {Type::decimal256, scale};
    malformed("a decimal of " + std::to_string(precision) + " digits in " + std::to_string(bits) +
              " bits: " + shown(format));
}

Format format_of(const char *format) {
    if (format && format[0] && !format[1]) {
        switch (format[0]) {
            case 'g': return {Type::float64};
            case 'f': return {Type::float32};
            case 'e': return {Type::float16};
            case 'c': return {Type::int8};
            case 's': return {Type::int16};
            case 'i': return {Type::int32};
            case 'l': return {Type::int64};
            case 'C': return {Type::uint8};
            case 'S': return {Type::uint16};
            case 'I': return {Type::uint32};
            case 'L': return {Type::uint64};
            case 'n': return {Type::null};
            default: break;
        }
    }
    if (format && format[0] == 'd' && format[1] == ':') return decimal_format(format);
    malformed("a column was bound as numeric, but its format is " + shown(format));
}

// One level of nesting, validated as far as the C data interface allows.
struct Level {
    const ArrowSchema *schema;
    const ArrowArray *array;
    int64_t offset;  // of the first row, in elements of the array
    int64_t rows;
};

Level checked(const ArrowSchema *schema, const ArrowArray *array, int64_t offset, int64_t rows,
              int64_t buffers) {
    if (!schema || !array) malformed("a child is missing");
    if (!schema->format) malformed("a schema has no format");
    if (!schema->release || !array->release) malformed("a column was already released");
    if (array->length < 0 || array->offset < 0 || offset < 0 || rows < 0)
        malformed("a length or an offset is negative");
    if (rows > array->length || offset > array->length - rows)
        malformed("a column of length " + std::to_string(array->length) + " needs " +
                  std::to_string(offset + rows) + " elements");
    if (array->offset > INT64_MAX / 64 - array->length) malformed("an offset is too large");
    if (array->n_buffers != buffers || (buffers > 0 && !array->buffers))
        malformed("a column of format " + shown(schema->format) + " has " +
                  std::to_string(array->n_buffers) + " buffers instead of " +
                  std::to_string(buffers));
    if (array->n_children != schema->n_children || array->n_children < 0 ||
        (array->n_children > 0 && (!array->children || !schema->children)))
        malformed("a column has " + std::to_string(array->n_children) + " children, but its schema has " +
                  std::to_string(schema->n_children));
    if (schema->dictionary || array->dictionary)
        malformed("a column was bound as plain numbers, but is dictionary-encoded");
    return {schema, array, array->offset + offset, rows};
}

void add_validity(std::vector<Bitmap> &to, const Level &level) {
    const ArrowArray &array = *level.array;
    if (array.null_count == 0 || level.rows == 0) return;
    if (array.buffers[0])
        to.push_back({static_cast<const uint8_t *>(array.buffers[0]), level.offset});
    else if (array.null_count > 0)
        malformed("a column has " + std::to_string(array.null_count) +
                  " nulls but no validity bitmap");
}

Level child(const Level &parent, int64_t index, int64_t offset, int64_t rows) {
    if (index < 0 || index >= parent.array->n_children)
        malformed("a column has " + std::to_string(parent.array->n_children) +
                  " children, but child " + std::to_string(index) + " was bound");
    const ArrowSchema *schema = parent.schema->children[index];
    if (!schema || !schema->format) malformed("a child has no format");
    const char first = schema->format[0];
    const int64_t buffers = first == '+' ? 1 : first == 'n' ? 0 : 2;
    return checked(schema, parent.array->children[index], offset, rows, buffers);
}

bool has_format(const Level &level, const char *format) {
    return std::strcmp(level.schema->format, format) == 0;
}

Column find_column(const Level &batch, const int32_t *steps, int depth, int list_size) {
    Column column{};
    column.rows = batch.rows;
    column.width = list_size > 0 ? list_size : 1;
    column.is_list = list_size > 0;
    if (column.rows > INT64_MAX / 64 / column.width) malformed("a length is too large");
    column.type = Type::null;
    if (depth == 1 && steps[0] == ABSENT) return column;
    Level at = batch;
    for (int i = 0; i < depth; ++i) {
        if (i > 0) {
            if (has_format(at, "n")) break;
            if (!has_format(at, "+s")) malformed("a struct was bound, but the format is " + shown(at.schema->format));
            add_validity(column.outer, at);
        }
        at = child(at, steps[i], at.offset, at.rows);
    }
    if (list_size > 0 && !has_format(at, "n")) {
        if (!has_format(at, ("+w:" + std::to_string(list_size)).c_str()))
            malformed("a list of size " + std::to_string(list_size) +
                      " was bound, but the format is " + shown(at.schema->format));
        add_validity(column.outer, at);
        if (at.offset + at.rows > INT64_MAX / 64 / list_size) malformed("an offset is too large");
        at = child(at, 0, at.offset * list_size, at.rows * list_size);
    }
    const Format format = format_of(at.schema->format);
    column.type = format.type;
    column.decimal_scale = format.decimal_scale;
    column.set_contiguous();
    if (column.type == Type::null) return column;
    add_validity(column.validity, at);
    if (at.rows > 0) {
        if (!at.array->buffers[1]) malformed("a column has rows but no buffer of values");
        column.values = static_cast<const uint8_t *>(at.array->buffers[1]) + at.offset * size_of(column.type);
    }
    return column;
}

}  // namespace

int size_of(Type type) {
    static const int SIZES[] = {8, 4, 2, 1, 2, 4, 8, 1, 2, 4, 8, 4, 8, 16, 32, 0};
    return SIZES[static_cast<int>(type)];
}

void Column::set_contiguous() {
    value_step = size_of(type);
    row_step = width * value_step;
}

bool Column::is_contiguous() const {
    const int64_t size = size_of(type);
    return row_step == width * size && (width == 1 || value_step == size);
}

std::vector<Column> find_columns(const ArrowSchema &schema, const ArrowArray &batch,
                              const int32_t *layout, size_t size) {
    if (!schema.format || std::strcmp(schema.format, "+s") != 0)
        malformed("a batch must be a struct, but its format is " + shown(schema.format));
    // `checked` applies the batch's own offset. A record batch must not have validity of its own.
    const Level whole = checked(&schema, &batch, 0, batch.length, 1);
    if (batch.null_count != 0 && batch.buffers[0])
        malformed("a record batch cannot have nulls of its own");
    std::vector<Column> columns;
    columns.reserve(size / 3);
    for (size_t i = 0; i < size;) {
        if (i + 1 == size) throw std::invalid_argument("the layout of the columns is damaged");
        const int width = layout[i], depth = layout[i + 1];
        if (width < 0 || depth < 1 || static_cast<size_t>(depth) > size - i - 2)
            throw std::invalid_argument("the layout of the columns is damaged");
        columns.push_back(find_column(whole, layout + i + 2, depth, width));
        i += 2 + static_cast<size_t>(depth);
    }
    return columns;
}

}  // namespace streambn
