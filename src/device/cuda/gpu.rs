//! The driver that runs the kernels on an NVIDIA GPU. libcuda is opened at run time; without one this is an error.

use super::driver::{Address, Driver, Launch, Moments, Recording, Stopped};
use crate::error::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use std::collections::HashMap;
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// One compiled file of `kernels/`.
struct Fatbin {
    file: &'static str,
    /// The oldest architecture it has code for, or 0; where that is `alone`, it has none for newer ones.
    needs: u32,
    alone: bool,
    kernels: &'static [&'static str],
    image: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// The CUDA version of the nvcc that compiled the kernels, and the architectures it compiled for.
const BUILT_WITH: &str = env!("CORONET_KERNELS_BY");
const BUILT_FOR: &str = env!("CORONET_KERNELS_FOR");

/// The first architecture, and the first CUDA version of a driver, with recorded launches that begin before the end of those
/// before them.
const LAUNCHES_AHEAD: (u32, i32) = (90, 12_030);

/// A GPU with the kernels loaded.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<&'static str, Function>,
    name: String,
    architecture: u32,
    /// Bytes of memory that were free before the kernels were loaded.
    free_at_first: Option<usize>,
    /// Recorded launches may begin before those before them are done.
    launches_ahead: AtomicBool,
}

/// A kernel of a loaded module.
struct Function {
    handle: sys::CUfunction,
    /// Whether its blocks may have all the shared memory there is, once that has been asked for.
    has_all_shared: OnceLock<std::result::Result<(), DriverError>>,
}

// SAFETY: modules and functions are handles that any thread may use once the context is bound to it, as every method
// does first.
unsafe impl Send for Gpu {}
unsafe impl Sync for Gpu {}

impl Gpu {
    /// GPU number `ordinal`, counted from 0.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no driver, it is too old, there is no such GPU, or it runs none of the code.
    pub fn new(ordinal: usize) -> Result<Gpu> {
        check_driver()?;
        let context = CudaContext::new(ordinal).map_err(|error| unavailable(ordinal, error))?;
        // SAFETY: nothing has been allocated yet, and all work goes to the one stream below.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(failed("ask the GPU for its name"))?;
        // Never the default stream: its work cannot be captured as a graph.
        let stream = context.new_stream().map_err(failed("make a stream"))?;
        let (major, minor) = context.compute_capability().map_err(failed("ask the GPU for its architecture"))?;
        let architecture = u32::try_from(10 * major + minor).unwrap_or(0);
        let (modules, functions) = (Vec::new(), HashMap::new());
        let launches_ahead = AtomicBool::new(false);
        let free_at_first = result::mem_get_info().ok().map(|(free, _)| free);
        let mut gpu = Gpu { context, stream, modules, functions, name, architecture, free_at_first, launches_ahead };
        let runs = |fatbin: &&Fatbin| {
            if fatbin.alone { fatbin.needs == architecture } else { fatbin.needs <= architecture }
        };
        for fatbin in FATBINS.iter().filter(runs) {
            gpu.load(fatbin)?;
        }
        Ok(gpu)
    }

    /// How many GPUs the driver finds.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no driver, it is too old, or it finds no GPU.
    pub fn count() -> Result<usize> {
        check_driver()?;
        let count = CudaContext::device_count().map_err(|error| unavailable(0, error))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    fn load(&mut self, fatbin: &Fatbin) -> Result<()> {
        // The driver reads a fatbin as 64-bit words; an embedded file may start anywhere.
        let mut image = vec![0u64; fatbin.image.len().div_ceil(size_of::<u64>())];
        bytemuck::cast_slice_mut(&mut image)[..fatbin.image.len()].copy_from_slice(fatbin.image);
        // SAFETY: nvcc made the image.
        let module =
            unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(|error| self.refused(fatbin, error))?;
        self.modules.push(module);
        for &kernel in fatbin.kernels {
            let name = CString::new(kernel).map_err(|_| Error::Device(format!("no kernel is called {kernel:?}")))?;
            // SAFETY: the module was just loaded.
            let function = unsafe { result::module::get_function(module, name) };
            let handle = function.map_err(failed(&format!("find the kernel {kernel}")))?;
            self.functions.insert(kernel, Function { handle, has_all_shared: OnceLock::new() });
        }
        Ok(())
    }

    /// Why a file's code cannot be loaded.
    fn refused(&self, fatbin: &Fatbin, error: DriverError) -> Error {
        if error.0 != CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU {
            return failed(&format!("load the kernels of {}", fatbin.file))(error);
        }
        let architecture = self.architecture;
        Error::Device(format!(
            "the {} is of architecture sm_{architecture}, but this build has code for {BUILT_FOR} only; build again with \
             its number in CORONET_CUDA_ARCHS",
            self.name
        ))
    }

    /// Lets blocks of a kernel have as much dynamic shared memory as the GPU has beside what the kernel declares by itself. Without
    /// asking both together are 48 KB at most. Once and for all: what a launch may have never shrinks again, neither for another
    /// thread nor for what was recorded.
    fn allow_shared(&self, function: &Function) -> std::result::Result<(), DriverError> {
        use sys::CUfunction_attribute_enum::{
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as DECLARED,
        };
        *function.has_all_shared.get_or_init(|| {
            let there_is = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            let all = self.context.attribute(there_is)?;
            // SAFETY: the function belongs to a loaded module.
            unsafe {
                let declared = result::function::get_function_attribute(function.handle, DECLARED)?;
                result::function::set_function_attribute(function.handle, MOST, all - declared)
            }
        })
    }

    /// Starts a kernel on a stream, or adds it to what is being recorded there; `ahead` of the end of those before it.
    ///
    /// # Safety
    /// As [`Driver::launch`].
    unsafe fn enqueue(&self, launch: &Launch, stream: &CudaStream, ahead: bool) -> Result<()> {
        let Launch { kernel, grid, block, shared_bytes, is_cooperative, .. } = launch;
        let function =
            self.functions.get(kernel).ok_or_else(|| Error::Device(format!("there is no kernel {kernel}")))?;
        self.bind()?;
        if *shared_bytes > 0 {
            self.allow_shared(function)
                .map_err(failed(&format!("give {kernel} {shared_bytes} bytes of shared memory")))?;
        }
        let attributes = [is_cooperative.then(cooperative), ahead.then(ahead_of_the_end)];
        let mut attributes: Vec<_> = attributes.into_iter().flatten().collect();
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: block[0],
            blockDimY: block[1],
            blockDimZ: block[2],
            sharedMemBytes: *shared_bytes,
            hStream: stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        launch.with_pointers(|arguments| {
            // SAFETY: the arguments are the caller's promise; the driver copies them and the attributes.
            let started = unsafe {
                sys::cuLaunchKernelEx(&config, function.handle, arguments.as_mut_ptr(), std::ptr::null_mut())
            };
            started.result().map_err(failed(&format!("start {kernel}")))
        })
    }

    /// Records launches as a graph, each `ahead` of the end of those before it.
    ///
    /// # Safety
    /// As [`Driver::record`].
    unsafe fn capture(&self, launches: &[&Launch], ahead: bool) -> Result<Box<dyn Recording>> {
        // A stream that nobody else has: what other threads give the device meanwhile must run, and not be recorded.
        let stream = self.context.new_stream().map_err(failed("make a stream"))?;
        self.bind()?;
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is not the default one, and lives to the end of this function.
        unsafe { result::stream::begin_capture(stream.cu_stream(), mode) }.map_err(failed("record launches"))?;
        // SAFETY: the caller's promise.
        let launched = launches.iter().try_for_each(|launch| unsafe { self.enqueue(launch, &stream, ahead) });
        // SAFETY: the capture has begun, and must end whatever has happened.
        let graph = unsafe { result::stream::end_capture(stream.cu_stream()) };
        let started = launched.and_then(|()| {
            let graph = *graph.as_ref().map_err(|&error| failed("record launches")(error))?;
            // SAFETY: the graph was just made.
            let started = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
            started.map_err(failed("make a graph of the recorded launches"))
        });
        if let Ok(graph) = graph {
            // SAFETY: not needed any more, whether it can be started now or not. Nothing can be done about a driver that keeps
            // it.
            let _ = unsafe { result::graph::destroy(graph) };
        }
        let started = started?;
        Ok(Box::new(Graph { context: self.context.clone(), stream: self.stream.clone(), started }))
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("use the GPU from this thread"))
    }
}

/// An error unless there is a driver that runs what nvcc has compiled.
fn check_driver() -> Result<()> {
    // SAFETY: opens libcuda and closes it again.
    if !unsafe { sys::is_culib_present() } {
        let problem = "there is no NVIDIA driver here: libcuda.so cannot be opened; install the driver to use a GPU";
        return Err(Error::Device(problem.into()));
    }
    let version = driver_version()?;
    let (found, minor) = (version / 1000, version % 1000 / 10);
    let needed = BUILT_WITH.split('.').next().and_then(|major| major.parse::<i32>().ok()).unwrap_or(0);
    if found < needed {
        // The first driver of each major version of CUDA, as NVIDIA's release notes list them.
        let driver = if needed >= 13 { "580" } else { "525" };
        return Err(Error::Device(format!(
            "the NVIDIA driver is too old: it knows CUDA {found}.{minor}, but the kernels were compiled by CUDA \
             {BUILT_WITH} and need driver {driver} or newer; update the driver, or build with an older nvcc"
        )));
    }
    Ok(())
}

/// The CUDA version that the driver, which must be there, knows: 13000 for 13.0.
fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: libcuda is there; the call needs no initialisation.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed("ask for the driver's version"))?;
    Ok(version)
}

/// Why a GPU cannot be opened.
fn unavailable(ordinal: usize, error: DriverError) -> Error {
    match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => {
            Error::Device("the NVIDIA driver finds no GPU; is one there, and may this process see it?".into())
        }
        CUresult::CUDA_ERROR_INVALID_DEVICE => {
            let count = CudaContext::device_count().unwrap_or(0);
            Error::Device(format!("there is no GPU number {ordinal}: the driver finds {count}, counted from 0"))
        }
        _ => failed(&format!("open GPU number {ordinal}"))(error),
    }
}

/// `cannot ACTION: what the driver says`.
fn failed(action: &str) -> impl FnOnce(DriverError) -> Error + use<'_> {
    move |error| {
        let said = error.error_string().map_or_else(|_| format!("{:?}", error.0), |s| s.to_string_lossy().into_owned());
        Error::Device(format!("the GPU cannot {action}: {said}"))
    }
}

/// All blocks of a launch are there at once.
fn cooperative() -> sys::CUlaunchAttribute {
    let value = sys::CUlaunchAttributeValue { cooperative: 1 };
    sys::CUlaunchAttribute { id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, pad: [0; 4], value }
}

/// A launch may begin before the one before it is done.
fn ahead_of_the_end() -> sys::CUlaunchAttribute {
    let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    let value = sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 };
    sys::CUlaunchAttribute { id, pad: [0; 4], value }
}

impl Driver for Gpu {
    fn describe(&self) -> String {
        let memory = self.context.total_mem().map_or(String::new(), |bytes| format!(", {} MB", bytes >> 20));
        format!("{}, sm_{}{memory}", self.name, self.architecture)
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        use sys::CUdevice_attribute_enum as Attribute;
        let of_device = |name, attribute, unit: &str, scale| {
            let value = self.context.attribute(attribute).ok()?;
            Some((name, format!("{}{unit}", value / scale)))
        };
        let driver = driver_version().ok().map(|version| format!("CUDA {}.{}", version / 1000, version % 1000 / 10));
        let launches = if self.launches_ahead.load(Ordering::Relaxed) {
            "one CUDA graph, each beginning before the one before it is done (programmatic dependent launch)"
        } else {
            "one CUDA graph, each beginning when the one before it is done"
        };
        let facts = [
            driver.map(|driver| ("driver", driver)),
            Some(("launches of a run", launches.to_owned())),
            of_device("multiprocessors", Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, "", 1),
            of_device("highest clock", Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE, " MHz", 1000),
            of_device("highest memory clock", Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, " MHz", 1000),
            of_device("second-level cache", Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, " KB", 1024),
        ];
        facts.into_iter().flatten().collect()
    }

    fn architecture(&self) -> u32 {
        self.architecture
    }

    fn has_kernel(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    fn blocks_at_once(&self, kernel: &str, threads: u32, shared_bytes: u32) -> usize {
        use sys::CUdevice_attribute_enum as Attribute;
        let of_device = |attribute| self.context.attribute(attribute).unwrap_or(0);
        let Some(function) = self.functions.get(kernel) else { return 0 };
        if self.bind().is_err() || of_device(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH) == 0 {
            return 0;
        }
        if shared_bytes > 0 && self.allow_shared(function).is_err() {
            return 0;
        }
        let (function, threads, shared_bytes) = (function.handle, threads as i32, shared_bytes as usize);
        // SAFETY: the function belongs to a loaded module.
        let blocks = unsafe { result::occupancy::max_active_block_per_multiprocessor(function, threads, shared_bytes) };
        let multiprocessors = of_device(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        usize::try_from(blocks.unwrap_or(0) * multiprocessors).unwrap_or(0)
    }

    fn multiprocessors(&self) -> usize {
        let attribute = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        usize::try_from(self.context.attribute(attribute).unwrap_or(1)).unwrap_or(1)
    }

    fn memory_taken(&self) -> Option<u64> {
        self.bind().ok()?;
        // One that has none of its own counts the host's, which everybody takes.
        let integrated = self.context.attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_INTEGRATED);
        if integrated.unwrap_or(0) != 0 {
            return None;
        }
        let (free, _) = result::mem_get_info().ok()?;
        // Another process may have given some back.
        Some(self.free_at_first?.saturating_sub(free) as u64)
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.bind()?;
        // SAFETY: the context is bound.
        unsafe { result::malloc_sync(bytes) }.map(Address).map_err(|error| {
            if error.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                return failed("allocate memory")(error);
            }
            let free = result::mem_get_info().map_or(0, |(free, _)| free);
            let (needed, free) = (bytes >> 20, free >> 20);
            Error::Device(format!(
                "the GPU is out of memory: {needed} MB are needed, {free} MB are free; use a smaller size, \
                 or a smaller batch to train"
            ))
        })
    }

    unsafe fn release(&self, memory: Address) {
        // Nothing can be done about a driver that refuses to take memory back.
        if self.bind().is_ok() {
            // SAFETY: the caller's promise.
            let _ = unsafe { result::free_sync(memory.0) };
        }
    }

    fn allocate_host(&self, bytes: usize) -> Result<NonNull<u8>> {
        self.bind()?;
        // Memory that the processor caches: masks are read from it.
        // SAFETY: the context is bound.
        let memory = unsafe { result::malloc_host(bytes.max(1), 0) }
            .map_err(failed(&format!("have {} MB of the host's memory", bytes >> 20)))?
            .cast::<u8>();
        let memory = NonNull::new(memory).ok_or_else(|| Error::Device("the GPU has no memory of the host".into()))?;
        // SAFETY: as many bytes as were allocated.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(memory)
    }

    unsafe fn release_host(&self, memory: NonNull<u8>, _bytes: usize) {
        // Nothing can be done about a driver that refuses to take memory back.
        if self.bind().is_ok() {
            // SAFETY: the caller's promise.
            let _ = unsafe { result::free_host(memory.as_ptr().cast()) };
        }
    }

    unsafe fn start_upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_htod_async(to.0, bytes, self.stream.cu_stream()) }
            .map_err(failed("take numbers from the host"))
    }

    unsafe fn start_download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream.cu_stream()) }
            .map_err(failed("give numbers to the host"))
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.enqueue(launch, &self.stream, false) }
    }

    unsafe fn record(&self, launches: &[&Launch]) -> Result<Box<dyn Recording>> {
        if self.launches_ahead.load(Ordering::Relaxed) {
            // SAFETY: the caller's promise.
            let recorded = unsafe { self.capture(launches, true) };
            if recorded.is_ok() {
                return recorded;
            }
            // A driver that does not want them ahead may take them in turn.
            self.launches_ahead.store(false, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { self.capture(launches, false) }
    }

    fn launch_ahead(&self) -> Result<()> {
        let (architecture, version) = LAUNCHES_AHEAD;
        if self.architecture < architecture || driver_version()? < version {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            return Err(Error::Device(format!(
                "{} begins no launch before the end of another: that needs sm_{architecture} or newer and a driver of CUDA \
                 {major}.{minor} or newer",
                self.describe()
            )));
        }
        // Code that the driver makes of older PTX waits for nothing, and lets nothing begin.
        let ptx = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PTX_VERSION;
        self.bind()?;
        if let Some(function) = self.functions.values().next() {
            // SAFETY: the function belongs to a loaded module.
            let version = unsafe { result::function::get_function_attribute(function.handle, ptx) }
                .map_err(failed("say what its kernels were made from"))?;
            if version < architecture as i32 {
                return Err(Error::Device(format!(
                    "{} runs kernels made for sm_{version}, which begin none before the end of another; build with its \
                     number in CORONET_CUDA_ARCHS",
                    self.describe()
                )));
            }
        }
        self.launches_ahead.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn synchronise(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("finish what was launched"))
    }

    fn moments(&self, count: usize) -> Result<Box<dyn Moments>> {
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = |_| self.context.new_event(timed).map_err(failed("make an event"));
        let events = (0..count).map(event).collect::<Result<Vec<CudaEvent>>>()?;
        Ok(Box::new(Events { stream: self.stream.clone(), events }))
    }
}

/// Events of a stream.
struct Events {
    stream: Arc<CudaStream>,
    events: Vec<CudaEvent>,
}

impl Moments for Events {
    fn mark(&self, moment: usize) -> Result<()> {
        self.events[moment].record(&self.stream).map_err(failed("record an event"))
    }

    fn between(&self, earlier: usize, later: usize) -> Result<Duration> {
        let milliseconds = self.events[earlier].elapsed_ms(&self.events[later]);
        let milliseconds = milliseconds.map_err(failed("finish what was launched"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

/// A CUDA graph that can be started.
struct Graph {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    started: sys::CUgraphExec,
}

// SAFETY: a handle that any thread may use once the context is bound to it, one at a time.
unsafe impl Send for Graph {}

impl Recording for Graph {
    fn start(&self) -> std::result::Result<(), Stopped> {
        let bound = self.context.bind_to_thread();
        // SAFETY: graph and stream live as long as this.
        let started = bound.and_then(|()| unsafe { result::graph::launch(self.started, self.stream.cu_stream()) });
        started.map_err(|error| Stopped { launch: None, error: failed("start a graph")(error) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: made in `record`; sessions synchronise before they return from a run.
            let _ = unsafe { result::graph::exec_destroy(self.started) };
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            for &module in &self.modules {
                // SAFETY: loaded in `load`, and nothing is running: sessions hold the driver and synchronise.
                let _ = unsafe { result::module::unload(module) };
            }
        }
    }
}
