// What `-fsanitize=undefined` calls in kernels when C++ leaves something undefined: here it ends the launch
// with the file and line. The compiler's own run-time library is never linked; of its data only the beginning is read, which
// is the same for all: where it happened.

#if defined(CORONET_CHECKED) || defined(CORONET_ADDRESS)

#include "multiprocessor.h"

#include <cstring>

namespace {

struct Location {
    const char* file;
    uint32_t line, column;
};

[[noreturn]] void stop(const Location* location, const char* what) {
    const char* slash = strrchr(location->file, '/');
    const char* file = slash != nullptr ? slash + 1 : location->file;
    emulator::Multiprocessor::current().fail_at(nullptr, "%s:%u:%u: %s", file, location->line, location->column, what);
}

}  // namespace

#define UNDEFINED(handler, what) \
    void __ubsan_handle_##handler(const Location* location) { stop(location, what); }

extern "C" {

UNDEFINED(add_overflow, "a sum of integers overflows")
UNDEFINED(sub_overflow, "a difference of integers overflows")
UNDEFINED(mul_overflow, "a product of integers overflows")
UNDEFINED(negate_overflow, "the negative of an integer overflows")
UNDEFINED(divrem_overflow, "a division by zero or one that overflows")
UNDEFINED(shift_out_of_bounds, "a shift by more bits than there are")
UNDEFINED(out_of_bounds, "an index outside its array")
UNDEFINED(pointer_overflow, "a pointer that wraps round")
UNDEFINED(type_mismatch_v1, "a null or misaligned pointer is used")
UNDEFINED(load_invalid_value, "a value that its type does not have")
UNDEFINED(builtin_unreachable, "a place that cannot be reached is reached")
UNDEFINED(missing_return, "a function ends without its result")
UNDEFINED(vla_bound_not_positive, "an array without elements")
UNDEFINED(float_cast_overflow, "a number too large for the integer it becomes")
UNDEFINED(nonnull_arg, "a null pointer where none is allowed")

}  // extern "C"

#endif
