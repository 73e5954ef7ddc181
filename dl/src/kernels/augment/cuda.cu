// Pictures that are mirrored, turned and moved, as on the CPU.

// Words that say what is done to a picture, as `AffineTransform::words` has them.
const u32 TRANSFORM_LENGTH = 4;

__device__ inline double number_of(u64 bits) {
    union {
        double number;
        u64 bits;
    } of;
    of.bits = bits;
    return of.number;
}

// One of the four pixels around a place, and how much it counts.
struct Tap {
    u64 place;
    double weight;
};

// One outside does not count.
__device__ inline Tap tap_of(double column, double row, u64 width, u64 height, double weight) {
    bool is_inside = column >= 0 && column < (double)width && row >= 0 && row < (double)height;
    Tap inside = {is_inside ? (u64)row * width + (u64)column : 0, is_inside ? weight : 0.0};
    return inside;
}

// Each pixel of all channels of rows of pictures.
extern "C" __global__ void augment(
    u64 rows, u64 channels, u64 height, u64 width, const u64* transforms, const float* from, float* to) {
    u64 pixels = height * width;
    double centre_x = ((double)width - 1.0) / 2.0, centre_y = ((double)height - 1.0) / 2.0;
    FOR_EACH(index, rows * pixels) {
        u64 row = index / pixels, place = index % pixels;
        const u64* transform = transforms + TRANSFORM_LENGTH * row;
        const float* picture = from + row * channels * pixels;
        float* changed = to + row * channels * pixels + place;
        if (!(transform[3] & 2)) {
            for (u64 channel = 0; channel < channels; channel++) {
                changed[channel * pixels] = picture[channel * pixels + place];
            }
            continue;
        }
        double sine = number_of(transform[0]), cosine = number_of(transform[1]);
        double u = (double)(place % width) - (double)(int)(u32)transform[2] - centre_x;
        double v = (double)(place / width) - (double)(int)(u32)(transform[2] >> 32) - centre_y;
        double x = centre_x + u * cosine - v * sine, y = centre_y + u * sine + v * cosine;
        x = transform[3] & 1 ? (double)width - 1.0 - x : x;
        double left = floor(x), top = floor(y), right_share = x - left, lower_share = y - top;
        Tap taps[4] = {
            tap_of(left, top, width, height, (1.0 - right_share) * (1.0 - lower_share)),
            tap_of(left + 1.0, top, width, height, right_share * (1.0 - lower_share)),
            tap_of(left, top + 1.0, width, height, (1.0 - right_share) * lower_share),
            tap_of(left + 1.0, top + 1.0, width, height, right_share * lower_share),
        };
        for (u64 channel = 0; channel < channels; channel++) {
            // The CPU's sum of nothing.
            double sum = -0.0;
            for (int tap = 0; tap < 4; tap++) {
                // One that does not count is not looked at: it may be infinite.
                if (taps[tap].weight > 0) {
                    sum += taps[tap].weight * (double)picture[channel * pixels + taps[tap].place];
                }
            }
            changed[channel * pixels] = (float)sum;
        }
    }
}
