//! Pieces that are sent one after the other while kernels work on those before.

use distdl_engine::device::{Argument, Compiler, DoubleBuffer, Gpu, GpuBuffer, GpuFound, GpuKernel, GpuPort, GpuSlice};
use distdl_storage::{DeviceError, DeviceMemory};

const SUM: &str = r#"
extern "C" __global__ void sum(const float* piece, float* to, unsigned long long count) {
    float total = 0;
    for (unsigned long long index = 0; index < count; index++) {
        total += piece[index];
    }
    to[0] = total;
}
"#;

const WORDS: usize = 300;
const PIECES: usize = 20;

struct Sums {
    gpu: Gpu,
    sum: GpuKernel,
    sums: GpuBuffer,
}

impl Sums {
    fn new(found: &GpuFound, compiler: &Compiler) -> Self {
        let gpu = Gpu::open(found, 0).unwrap();
        let module = gpu.load(&compiler.compile("sum", SUM, gpu.architecture()).unwrap());
        Self {
            sum: gpu.kernel(&module.unwrap(), "sum").unwrap(),
            sums: gpu.allocate(4 * PIECES).unwrap(),
            gpu,
        }
    }

    fn buffer(&self, is_double: bool) -> DoubleBuffer {
        let mut buffer = DoubleBuffer::new(&self.gpu, 4 * WORDS).unwrap();
        if is_double {
            buffer.add_second(&self.gpu).unwrap();
        }
        buffer
    }

    /// Swaps in what was sent, and has it summed.
    fn sum(&self, buffer: &mut DoubleBuffer, piece: usize) {
        buffer.swap(&self.gpu).unwrap();
        self.sum_of(buffer.words(), piece);
    }

    fn sum_of(&self, words: GpuSlice<'_>, piece: usize) {
        let arguments = [
            Argument::Words(words),
            Argument::Words(self.sums.words().part(piece..piece + 1)),
            Argument::Count(WORDS as u64),
        ];
        // SAFETY: these are its arguments, and their lengths.
        unsafe { self.gpu.launch(&self.sum, 1, 1, &arguments) }.unwrap();
    }
}

fn piece(index: usize) -> [f32; WORDS] {
    [index as f32; WORDS]
}

/// However many are sent, and whether the next one is sent before the one before was asked about.
pub(crate) fn each_piece_is_there_when_it_is_swapped_in(found: &GpuFound, compiler: &Compiler) {
    let sums = Sums::new(found, compiler);
    for (is_double, is_ahead) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut buffer = sums.buffer(is_double);
        // Nobody turns to it.
        buffer.send(&sums.gpu, &piece(77)).unwrap();
        buffer.send(&sums.gpu, &piece(0)).unwrap();
        for index in 0..PIECES {
            sums.sum(&mut buffer, index);
            buffer.send(&sums.gpu, &piece(index + 1)).unwrap();
            if !is_ahead {
                sums.gpu.synchronize().unwrap();
            }
        }
        let mut got = [0.0_f32; PIECES];
        sums.gpu.read(sums.sums.words(), &mut got).unwrap();
        let expected: Vec<f32> = (0..PIECES).map(|index| (index * WORDS) as f32).collect();
        assert_eq!(&got[..], expected, "double: {is_double}, ahead: {is_ahead}");
        // Turned to once, it stays.
        buffer.swap(&sums.gpu).unwrap();
        sums.sum(&mut buffer, 0);
        sums.gpu.read(sums.sums.words(), &mut got).unwrap();
        assert_eq!(got[0], (PIECES * WORDS) as f32);

        let too_long = buffer.send(&sums.gpu, &[0.0_f32; WORDS + 1]).unwrap_err();
        assert!(matches!(too_long, DeviceError::Failed { .. }), "{too_long}");
        let other = Gpu::open(found, 0).unwrap();
        assert!(
            buffer.send(&other, &piece(0)).is_err() && buffer.swap(&other).is_err() && buffer.words().len() == WORDS
        );
    }
}

/// An emulated GPU begins nothing before somebody waits for it.
pub(crate) fn pieces_are_sent_without_waiting_for_kernels(
    found: &GpuFound,
    compiler: &Compiler,
    launches: &dyn Fn() -> i64,
) {
    let sums = Sums::new(found, compiler);
    let begun = |is_double: bool| {
        let (mut buffer, before) = (sums.buffer(is_double), launches());
        let begun = [0, 1, 2, 3, 4].map(|index| {
            buffer.send(&sums.gpu, &piece(index)).unwrap();
            sums.sum(&mut buffer, index);
            launches() - before
        });
        sums.gpu.synchronize().unwrap();
        begun
    };
    // Of a port the last copy is waited for, and no kernel behind it.
    let (mut port, before) = (GpuPort::new(&sums.gpu, 4 * WORDS).unwrap(), launches());
    port.send(&sums.gpu, &piece(1)).unwrap();
    sums.sum_of(port.words(), 0);
    port.send(&sums.gpu, &piece(2)).unwrap();
    assert_eq!(launches() - before, 0);
    sums.sum_of(port.words(), 1);
    let mut got = [0.0_f32; 2];
    sums.gpu.read(sums.sums.words().part(0..2), &mut got).unwrap();
    assert_eq!(got, [1, 2].map(|piece| (piece * WORDS) as f32));
    // A half is used again when the piece before the last is summed, and not the last.
    assert_eq!(begun(true), [0, 0, 0, 0, 1]);
    assert_eq!(begun(false), [0, 0, 1, 2, 3]);
}
