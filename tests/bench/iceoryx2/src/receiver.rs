use crate::{open, Ipc, Spec, STORAGE_BYTES};
use iceoryx2::port::{listener::Listener, subscriber::Subscriber};
use iceoryx2::sample::Sample;
use std::ffi::c_void;
use std::mem::size_of;

type Received = Sample<Ipc, [u8], ()>;
const _: () = assert!(size_of::<Received>() <= STORAGE_BYTES);

pub struct Receiver {
    subscriber: Subscriber<Ipc, [u8], ()>,
    ear: Option<Listener<Ipc>>,
}

#[no_mangle]
pub extern "C" fn new_receiver(spec: &Spec) -> Box<Receiver> {
    let (messages, bells) = open(spec);
    Box::new(Receiver {
        subscriber: messages.subscriber_builder().create().unwrap(),
        ear: bells.map(|bells| bells.listener_builder().create().unwrap()),
    })
}
#[no_mangle]
pub extern "C" fn delete_receiver(_: Box<Receiver>) {}

// Null, and nothing in the storage, if there is no message.
#[no_mangle]
pub unsafe extern "C" fn take(receiver: &Receiver, sample: *mut Received) -> *const c_void {
    let Some(received) = receiver.subscriber.receive().unwrap() else {
        return std::ptr::null();
    };
    sample.write(received);
    (*sample).payload().as_ptr() as *const c_void
}
#[no_mangle]
pub unsafe extern "C" fn drop_sample(sample: *mut Received) {
    sample.drop_in_place();
}

// Returns when there may be a message. REQUIRES: a service whose subscribers sleep.
#[no_mangle]
pub extern "C" fn wait(receiver: &Receiver) {
    let ear = receiver.ear.as_ref().unwrap();
    ear.blocking_wait(|_| {}).unwrap();
}
