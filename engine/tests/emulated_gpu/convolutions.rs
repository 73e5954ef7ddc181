//! Convolutions by cuDNN.

use distdl_engine::config::Precision;
use distdl_engine::device::{Convolution, ConvolutionOperands, ConvolutionPart, Gpu, GpuBuffer, GpuDnn, GpuFound};
use distdl_storage::{DeviceError, DeviceMemory};

const PARTS: [ConvolutionPart; 3] = [
    ConvolutionPart::Images,
    ConvolutionPart::Filters,
    ConvolutionPart::Outputs,
];

/// With windows of 3 x 2 of each image.
const CONVOLUTION: Convolution = Convolution {
    images: 2,
    channels: 3,
    height: 5,
    width: 3,
    filters: 2,
    size: [3, 2],
    stride: [2, 1],
    padding: [1, 0],
};

/// Of images, filters and outputs, as the parts stand above.
const LENGTHS: [usize; 3] = [2 * 3 * 5 * 3, 2 * 3 * 3 * 2, 2 * 2 * 3 * 2];

pub(crate) fn all(found: &GpuFound) {
    assert!(found.uses_cudnn);
    are_those_of_the_cpu(found);
    what_does_not_fit_is_refused(found);
    what_cudnn_cannot_compute_is_known(found);
    graphs_have_them(found);
}

/// Buffers of a convolution on a handle, and room to work with.
struct Place {
    gpu: Gpu,
    buffers: [GpuBuffer; 3],
    room: GpuBuffer,
}

impl Place {
    fn new(found: &GpuFound) -> Self {
        let gpu = Gpu::open(found, 0).unwrap();
        let buffers = LENGTHS.map(|length| gpu.allocate(4 * length).unwrap());
        let room = gpu.allocate(1 << 10).unwrap();
        Self { gpu, buffers, room }
    }

    fn operands(&self) -> ConvolutionOperands<'_> {
        let [images, filters, outputs] = [0, 1, 2].map(|index| self.buffers[index].words());
        ConvolutionOperands {
            images,
            filters,
            outputs,
        }
    }

    fn write(&self, numbers: &[Vec<f32>; 3]) {
        for (buffer, numbers) in self.buffers.iter().zip(numbers) {
            self.gpu.write(numbers, buffer.words()).unwrap();
        }
    }

    fn read(&self, index: usize) -> Vec<f32> {
        let mut values = vec![0.0; LENGTHS[index]];
        self.gpu.read(self.buffers[index].words(), &mut values).unwrap();
        values
    }

    fn convolve(&self, dnn: &GpuDnn, convolution: Convolution, part: ConvolutionPart) -> Result<bool, DeviceError> {
        dnn.convolve(&self.gpu, convolution, part, self.operands(), self.room.words())
    }
}

/// Small numbers, each with a bit that `tf32` has no room for.
fn numbers() -> [Vec<f32>; 3] {
    let number = |index: usize| (index * 7 % 13) as f32 - 6.5 + 1.0 / 8192.0;
    LENGTHS.map(|length| (0..length).map(number).collect())
}

/// What each is from the other two.
fn expected(numbers: &[Vec<f32>; 3]) -> [Vec<f32>; 3] {
    let mut sums = LENGTHS.map(|length| vec![0.0_f64; length]);
    let outputs = (0..24_usize).map(|index| (index / 12, index / 6 % 2, index / 2 % 3, index % 2));
    for (image, filter, row, column) in outputs {
        for (channel, y, x) in (0..18_usize).map(|index| (index / 6, index / 2 % 3, index % 2)) {
            let (Some(at_y), at_x) = ((2 * row + y).checked_sub(1), column + x) else {
                continue;
            };
            if at_y < 5 {
                let at = [
                    ((image * 3 + channel) * 5 + at_y) * 3 + at_x,
                    ((filter * 3 + channel) * 3 + y) * 2 + x,
                    ((image * 2 + filter) * 3 + row) * 2 + column,
                ];
                let [pixel, weight, output] = [0, 1, 2].map(|index| f64::from(numbers[index][at[index]]));
                sums[0][at[0]] += weight * output;
                sums[1][at[1]] += pixel * output;
                sums[2][at[2]] += pixel * weight;
            }
        }
    }
    sums.map(|sums| sums.into_iter().map(|sum| sum as f32).collect())
}

fn are_those_of_the_cpu(found: &GpuFound) {
    let (place, numbers) = (Place::new(found), numbers());
    // To 11 bits.
    let rounded = numbers
        .clone()
        .map(|all| all.into_iter().map(|number| number - 1.0 / 8192.0).collect());
    for (precision, of) in [
        (Precision::F32, &numbers),
        (Precision::Tf32, &rounded),
        (Precision::Bf16, &rounded),
    ] {
        let (dnn, expected) = (GpuDnn::new(&place.gpu, precision).unwrap(), expected(of));
        for (index, part) in PARTS.into_iter().enumerate() {
            place.write(&numbers);
            let bytes = dnn.workspace_bytes(&place.gpu, CONVOLUTION, part).unwrap().unwrap();
            let workspace = place.room.words().part(0..bytes.div_ceil(4));
            let done = dnn.convolve(&place.gpu, CONVOLUTION, part, place.operands(), workspace);
            assert!(done.unwrap());
            assert_eq!(place.read(index), expected[index], "{part:?}, {precision:?}");
        }
        assert_eq!(dnn.computed(), 3);
    }
}

fn what_does_not_fit_is_refused(found: &GpuFound) {
    let place = Place::new(found);
    let (gpu, operands, room) = (&place.gpu, place.operands(), place.room.words());
    let dnn = GpuDnn::new(gpu, Precision::F32).unwrap();
    for part in PARTS {
        let bytes = dnn.workspace_bytes(gpu, CONVOLUTION, part).unwrap().unwrap();
        let less = room.part(0..bytes.div_ceil(4) - 1);
        let error = dnn
            .convolve(gpu, CONVOLUTION, part, operands, less)
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("needs {bytes} bytes")), "{error}");
        let askew = room.part(1..200);
        let error = dnn
            .convolve(gpu, CONVOLUTION, part, operands, askew)
            .unwrap_err()
            .to_string();
        assert!(error.contains("multiple of 16 bytes"), "{error}");
    }
    let more = Convolution {
        images: 3,
        ..CONVOLUTION
    };
    let error = place
        .convolve(&dnn, more, ConvolutionPart::Outputs)
        .unwrap_err()
        .to_string();
    assert!(error.contains("90 elements are not [3, 3, 5, 3]"), "{error}");
    let other = Gpu::open(found, 0).unwrap();
    let error = dnn
        .workspace_bytes(&other, CONVOLUTION, ConvolutionPart::Outputs)
        .unwrap_err();
    assert!(error.to_string().contains("another handle"), "{error}");
    let elsewhere = dnn.convolve(&other, CONVOLUTION, ConvolutionPart::Outputs, operands, room);
    assert!(elsewhere.is_err());
}

/// Filters of this side, and images of as many windows as `LENGTHS` has outputs.
fn of_size(size: usize) -> Convolution {
    Convolution {
        size: [size; 2],
        stride: [2; 2],
        padding: [size / 2; 2],
        ..CONVOLUTION
    }
}

fn what_cudnn_cannot_compute_is_known(found: &GpuFound) {
    let place = Place::new(found);
    let (gpu, outputs) = (&place.gpu, ConvolutionPart::Outputs);
    let dnn = GpuDnn::new(gpu, Precision::F32).unwrap();
    // Emulated, there is none of this stride; and none at all without windows, of more than cuDNN counts, or of more
    // padding than filter.
    let far = Convolution {
        stride: [3, 1],
        ..CONVOLUTION
    };
    let filters = dnn.workspace_bytes(gpu, far, ConvolutionPart::Filters).unwrap();
    assert_eq!(filters, None);
    let error = place
        .convolve(&dnn, far, ConvolutionPart::Filters)
        .unwrap_err()
        .to_string();
    assert!(error.contains("cannot compute Filters of"), "{error}");
    let with = |change: fn(&mut Convolution)| {
        let mut changed = CONVOLUTION;
        change(&mut changed);
        changed
    };
    for none in [
        with(|convolution| convolution.size[0] = 8),
        with(|convolution| convolution.size[1] = 4),
        with(|convolution| convolution.stride[1] = 0),
        with(|convolution| convolution.stride[0] = 1 << 32),
        with(|convolution| convolution.images = 0),
        with(|convolution| convolution.images = 1 << 27),
        with(|convolution| convolution.padding[0] = usize::MAX),
        with(|convolution| convolution.padding[1] = 4),
    ] {
        assert_eq!(dnn.workspace_bytes(gpu, none, outputs).unwrap(), None, "{none:?}");
    }

    // What is refused only when it is to be computed is not asked for again; what fails has cuDNN's words.
    let [filters, bad, broken] = [5, 7, 9].map(|size| gpu.allocate(4 * 2 * 3 * size * size).unwrap());
    place.write(&LENGTHS.map(|length| vec![7.0; length]));
    let with_filters = |filters: &'_ GpuBuffer, size| {
        let operands = ConvolutionOperands {
            filters: filters.words(),
            ..place.operands()
        };
        dnn.convolve(gpu, of_size(size), outputs, operands, place.room.words())
    };
    for (filters, size) in [(&filters, 5), (&bad, 7)] {
        assert!(dnn.workspace_bytes(gpu, of_size(size), outputs).unwrap().is_some());
        assert!(!with_filters(filters, size).unwrap());
        assert_eq!(dnn.workspace_bytes(gpu, of_size(size), outputs).unwrap(), None);
        assert!(with_filters(filters, size).is_err());
    }
    let error = with_filters(&broken, 9).unwrap_err().to_string();
    assert!(error.contains("CUDNN_STATUS_EXECUTION_FAILED Not emulated."), "{error}");
    assert_eq!((dnn.computed(), place.read(2)), (0, vec![7.0; LENGTHS[2]]));
}

fn graphs_have_them(found: &GpuFound) {
    let (place, numbers) = (Place::new(found), numbers());
    let (gpu, outputs) = (&place.gpu, ConvolutionPart::Outputs);
    let dnn = GpuDnn::new(gpu, Precision::F32).unwrap();
    let ask = |convolution| place.convolve(&dnn, convolution, outputs).map(drop);
    let error = gpu.capture(|| ask(CONVOLUTION)).unwrap_err().to_string();
    assert!(
        error.contains("no part of a graph"),
        "cuDNN is asked for the first time: {error}"
    );

    place.write(&numbers);
    dnn.workspace_bytes(gpu, CONVOLUTION, outputs).unwrap();
    let mut graph = gpu.capture(|| ask(CONVOLUTION)).unwrap();
    assert_eq!(
        (dnn.computed(), place.read(2)),
        (0, numbers[2].clone()),
        "nothing is done yet"
    );
    // SAFETY: all that is named is there until the end.
    unsafe { gpu.replay(&mut graph, || ask(CONVOLUTION)) }.unwrap();
    assert_eq!((dnn.computed(), place.read(2)), (1, expected(&numbers)[2].clone()));

    let gradient = || place.convolve(&dnn, CONVOLUTION, ConvolutionPart::Images).map(drop);
    dnn.workspace_bytes(gpu, CONVOLUTION, ConvolutionPart::Images).unwrap();
    // SAFETY: as above.
    let error = unsafe { gpu.replay(&mut graph, gradient) }.unwrap_err().to_string();
    assert!(error.contains("another copy, product or convolution"), "{error}");
}
