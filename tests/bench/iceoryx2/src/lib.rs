// iceoryx2 for zerocp_bench, behind C functions (../../peers/iceoryx2.cc). A loan and a sample lie
// in the caller's storage; whatever goes wrong ends the process with a message.
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::{event, publish_subscribe};
use std::ffi::{c_char, CStr};

mod receiver;
mod sender;

type Ipc = ipc::Service;
type Messages = publish_subscribe::PortFactory<Ipc, [u8], ()>;
const STORAGE_BYTES: usize = 256;

#[repr(C)]
pub struct Spec {
    name: *const c_char,
    bytes: usize,
    queue: usize,
    loans: usize,
    samples: usize,
    publishers: usize,
    subscribers: usize,
    drops: bool,
    sleeps: bool,
}

// The service, and the events beside it if its subscribers sleep.
fn open(spec: &Spec) -> (Messages, Option<event::PortFactory<Ipc>>) {
    set_log_level(LogLevel::Error);
    let name = unsafe { CStr::from_ptr(spec.name) }.to_str().unwrap();
    let name: ServiceName = name.try_into().unwrap();
    let node = NodeBuilder::new().create::<Ipc>().unwrap();
    let messages = node.service_builder(&name).publish_subscribe::<[u8]>();
    let messages = messages
        .enable_safe_overflow(spec.drops)
        .subscriber_max_buffer_size(spec.queue)
        .subscriber_max_borrowed_samples(spec.samples)
        .max_publishers(spec.publishers)
        .max_subscribers(spec.subscribers)
        .max_nodes(spec.publishers + spec.subscribers);
    let bells = node.service_builder(&name).event();
    let bells = spec.sleeps.then(|| bells.open_or_create().unwrap());
    (messages.open_or_create().unwrap(), bells)
}
