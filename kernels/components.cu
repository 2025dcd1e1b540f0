// Removal of small components from a mask, 8-connected, as `post::remove_small_components` does it on the CPU: four
// launches, one after the other.
//
// A union-find over pixels (Playne and Hawick 2018; path splitting as in Rem's algorithm): each vessel pixel has a
// label, a pixel of its component with a number no greater than its own, and the root of a component is the pixel
// that has its own number. Labels only become less, by atomicMin, so whatever order threads come in the root is in the
// end the component's first pixel, and areas are whole numbers: the mask does not depend on the order.
//
// Masks are [rows][columns], 8 bits, 0 where there is no vessel; labels and areas a number for each pixel.

#include "block.cuh"

namespace {

constexpr int THREADS = 256;
constexpr unsigned WARP = 32;

/// The root of a pixel's component, as far as it has been put together. Each pixel on the way is led past the next one,
/// which halves the way for those who come later.
__device__ __forceinline__ unsigned root_of(unsigned* labels, unsigned pixel) {
    unsigned label = counter_now(labels + pixel);
    while (label != pixel) {
        unsigned next = counter_now(labels + label);
        if (next != label) atomicMin(labels + pixel, next);
        pixel = label;
        label = next;
    }
    return pixel;
}

/// Makes one component of those of two pixels.
__device__ __forceinline__ void unite(unsigned* labels, unsigned a, unsigned b) {
    for (;;) {
        a = root_of(labels, a);
        b = root_of(labels, b);
        if (a == b) return;
        unsigned greater = max(a, b), lesser = min(a, b);
        unsigned before = atomicMin(labels + greater, lesser);
        if (before == greater) return;
        // It was no root any more: what it has been united with meanwhile belongs to both.
        a = before;
        b = lesser;
    }
}

}  // namespace

/// labels[i] = the first pixel of the run of vessel that i lies in, areas[i] = the run's pixels, 0 but for its first one.
/// A run ends with its row, and with the 32 pixels that a warp owns. A thread owns a pixel.
extern "C" __global__ void __launch_bounds__(THREADS)
    mask_runs(const uint8_t* mask, unsigned* labels, unsigned* areas, int length, int columns) {
    wait_for_launches_before();
    unsigned pixel = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % WARP;
    bool is_pixel = pixel < static_cast<unsigned>(length);
    unsigned vessel = __ballot_sync(WHOLE_WARP, is_pixel && mask[pixel] != 0);
    if (!is_pixel) return;
    unsigned width = static_cast<unsigned>(columns), column = pixel % width;
    unsigned most_before = min(lane, column), most = min(WARP - lane, width - column);
    // How many pixels of the run come before this one, and how many from it on.
    unsigned before = 0, from_here = 0;
    while (before < most_before && vessel >> (lane - before - 1) & 1) before++;
    while (from_here < most && vessel >> (lane + from_here) & 1) from_here++;
    labels[pixel] = pixel - before;  // nobody reads that of a pixel without vessel
    areas[pixel] = before == 0 ? from_here : 0;
}

/// Makes one component of runs that touch each other. A thread owns a pixel, and what lies left of it and above.
extern "C" __global__ void __launch_bounds__(THREADS)
    unite_runs(const uint8_t* mask, unsigned* labels, int length, int columns) {
    wait_for_launches_before();
    unsigned pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= static_cast<unsigned>(length) || mask[pixel] == 0) return;
    unsigned width = static_cast<unsigned>(columns), column = pixel % width;
    bool has_left = column > 0, has_right = column + 1 < width, has_above = pixel >= width;
    bool left = has_left && mask[pixel - 1] != 0, above = has_above && mask[pixel - width] != 0;
    bool above_right = has_above && has_right && mask[pixel - width + 1] != 0;
    if (left && pixel % WARP == 0) unite(labels, pixel, pixel - 1);
    // What is above touches what is above left and right, and a vessel pixel on the left touches it, too.
    if (above) {
        if (!left) unite(labels, pixel, pixel - width);
        return;
    }
    if (above_right) unite(labels, pixel, pixel - width + 1);
    if (!left && has_left && has_above && mask[pixel - width - 1] != 0) unite(labels, pixel, pixel - width - 1);
}

/// areas[root] = the pixels of its component. A thread owns a pixel, and the run that begins there.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_areas(const uint8_t* mask, unsigned* labels, unsigned* areas, int length) {
    wait_for_launches_before();
    unsigned pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= static_cast<unsigned>(length) || mask[pixel] == 0) return;
    unsigned root = root_of(labels, pixel);
    // A root's own run is in its area from the start; nobody changes those of others.
    if (root != pixel && areas[pixel] > 0) atomicAdd(areas + root, areas[pixel]);
}

/// mask = 0 where the component has fewer than `minimum` pixels. A thread owns four pixels, read and written as one word.
extern "C" __global__ void __launch_bounds__(THREADS)
    clear_small(uint32_t* mask, unsigned* labels, const unsigned* areas, int length, unsigned minimum) {
    wait_for_launches_before();
    unsigned word = blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * word >= static_cast<unsigned>(length)) return;
    uint32_t pixels = mask[word];
    for (unsigned j = 0; j < 4; j++) {
        uint32_t one = 255u << 8 * j;  // the GPU's and the emulator's words are little-endian
        if ((pixels & one) != 0 && areas[root_of(labels, 4 * word + j)] < minimum) pixels &= ~one;
    }
    mask[word] = pixels;
}
