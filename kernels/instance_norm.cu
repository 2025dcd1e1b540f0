// Instance norm (Ulyanov et al. 2016) and its gradient: y = gamma (x - mean) r + beta, r = 1 / sqrt(var + epsilon),
// mean and var over the pixels of one channel of one sample.
//
// Statistics come from bands of pixels, merged in a fixed order (see statistics.cuh); all relative to the sample's first
// pixel, so that a mean far from zero costs nothing. A convolution in front of the norm may have taken them already.
// Maps are [batch][pixel][lane], statistics [batch][mean, r][lane]. Padding lanes: x, gamma and beta are 0, so is y.

#include "columns.cuh"
#include "finish.cuh"
#include "statistics.cuh"

namespace {

constexpr int THREADS = 256;

/// Sums of a band for the gradient: of dy, and of dy times the normed input.
struct Sums {
    float plain, normed;
};

}  // namespace

/// bands[sample][band][mean, M2][lane] of the band's pixels, relative to the sample's first pixel.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    instance_norm_bands(const float* x, float* bands, int area, int lanes, int band_pixels) {
    wait_for_launches_before();
    Column column = my_column(area, band_pixels);
    int sample = static_cast<int>(blockIdx.z);
    const float* pixels = x + sample * area * lanes + column.lane;
    float origin = pixels[0];
    Moments moments{0.0f, 0.0f, 0.0f};
    for (int pixel = column.first; pixel < column.end; pixel += COLUMN_ROWS) {
        // Welford's update: merging with one number.
        float value = pixels[pixel * lanes] - origin, delta = value - moments.mean;
        moments.count += 1.0f;
        moments.mean += delta / moments.count;
        moments.m2 += delta * (value - moments.mean);
    }
    moments = merge_rows(moments, merged);
    if (threadIdx.x < COLUMN_LANES) {
        int band = sample * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
        bands[2 * band * lanes + column.lane] = moments.mean;
        bands[(2 * band + 1) * lanes + column.lane] = moments.m2;
    }
}

/// statistics[sample][mean, r][lane] from the bands; 0 in padding lanes. A thread owns a lane of a sample.
extern "C" __global__ void __launch_bounds__(THREADS)
    instance_norm_merge(const float* x, const float* bands, float* statistics, int batch, int area, int lanes,
                        int channels, int band_pixels, int band_count, float epsilon) {
    wait_for_launches_before();
    int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (index >= batch * lanes) return;
    int sample = index / lanes, lane = index % lanes;
    Moments moments{0.0f, 0.0f, 0.0f};
    for (int band = 0; band < band_count; band++) {
        const float* part = bands + 2 * (sample * band_count + band) * lanes + lane;
        float count = static_cast<float>(min(band_pixels, area - band * band_pixels));
        moments = merged(moments, {count, part[0], part[lanes]});
    }
    float r = reciprocal_deviation(moments.m2, moments.count, epsilon);
    statistics[2 * sample * lanes + lane] = x[sample * area * lanes + lane] + moments.mean;
    statistics[(2 * sample + 1) * lanes + lane] = lane < channels ? r : 0.0f;
}

/// y = gamma (x - mean) r + beta, finished. A thread owns four lanes of a pixel; y may lie over x.
extern "C" __global__ void __launch_bounds__(THREADS)
    instance_norm_apply(const float* x, const float* statistics, Finish finish, float* y, int quads, int area,
                        int lanes) {
    wait_for_launches_before();
    int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (index >= quads) return;
    int first = 4 * index, lane = first % lanes, sample = first / lanes / area;
    QuadNorm norm = QuadNorm::at(statistics + 2 * sample * lanes, finish, lane, lanes);
    float4 normed = norm.of(four(x + first));
    *reinterpret_cast<float4*>(y + first) = finished<float>(normed, finish, first, lane);
}

/// bands[sample][band][sum of dy, sum of dy (x - mean) r][lane]
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    instance_norm_grad_bands(const float* x, const float* statistics, const float* dy, float* bands, int area,
                             int lanes, int band_pixels) {
    wait_for_launches_before();
    Column column = my_column(area, band_pixels);
    int sample = static_cast<int>(blockIdx.z), start = sample * area * lanes + column.lane;
    float mean = statistics[2 * sample * lanes + column.lane];
    float r = statistics[(2 * sample + 1) * lanes + column.lane];
    Sums sums{0.0f, 0.0f};
    for (int pixel = column.first; pixel < column.end; pixel += COLUMN_ROWS) {
        float cotangent = dy[start + pixel * lanes];
        sums.plain += cotangent;
        sums.normed += cotangent * ((x[start + pixel * lanes] - mean) * r);
    }
    sums = merge_rows(sums, [](Sums a, Sums b) { return Sums{a.plain + b.plain, a.normed + b.normed}; });
    if (threadIdx.x < COLUMN_LANES) {
        int band = sample * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
        bands[2 * band * lanes + column.lane] = sums.plain;
        bands[(2 * band + 1) * lanes + column.lane] = sums.normed;
    }
}

/// totals[sample][sum of dy, sum of dy (x - mean) r][lane] from the bands; dgamma and dbeta are their sums over the
/// batch. A thread owns a lane of all samples.
extern "C" __global__ void __launch_bounds__(THREADS)
    instance_norm_grad_merge(const float* bands, float* totals, float* dgamma, float* dbeta, int batch, int lanes,
                             int band_count) {
    wait_for_launches_before();
    int lane = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (lane >= lanes) return;
    double batch_plain = 0.0, batch_normed = 0.0;
    for (int sample = 0; sample < batch; sample++) {
        double plain = 0.0, normed = 0.0;
        for (int band = 0; band < band_count; band++) {
            const float* part = bands + 2 * (sample * band_count + band) * lanes + lane;
            plain += static_cast<double>(part[0]);
            normed += static_cast<double>(part[lanes]);
        }
        totals[2 * sample * lanes + lane] = static_cast<float>(plain);
        totals[(2 * sample + 1) * lanes + lane] = static_cast<float>(normed);
        batch_plain += plain;
        batch_normed += normed;
    }
    dbeta[lane] = static_cast<float>(batch_plain);
    dgamma[lane] = static_cast<float>(batch_normed);
}

/// dx = gamma r (dy - sum(dy) / area - normed x sum(dy normed x) / area). A thread owns a number; dx may lie over dy.
extern "C" __global__ void __launch_bounds__(THREADS)
    instance_norm_grad_apply(const float* x, const float* statistics, const float* gamma, const float* dy,
                             const float* totals, float* dx, int length, int area, int lanes) {
    wait_for_launches_before();
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= static_cast<unsigned>(length)) return;
    int i = static_cast<int>(index), lane = i % lanes, entry = 2 * (i / lanes / area) * lanes + lane;
    float mean = statistics[entry], r = statistics[entry + lanes], share = 1.0f / static_cast<float>(area);
    float normed = (x[i] - mean) * r;
    dx[i] = gamma[lane] * r * (dy[i] - totals[entry] * share - normed * (totals[entry + lanes] * share));
}
