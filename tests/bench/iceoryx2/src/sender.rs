use crate::{open, Ipc, Spec, STORAGE_BYTES};
use iceoryx2::port::{notifier::Notifier, publisher::Publisher};
use iceoryx2::prelude::*;
use iceoryx2::sample_mut_uninit::SampleMutUninit;
use std::ffi::c_void;
use std::mem::{size_of, MaybeUninit};

type Loan = SampleMutUninit<Ipc, [MaybeUninit<u8>], ()>;
const _: () = assert!(size_of::<Loan>() <= STORAGE_BYTES);

pub struct Sender {
    publisher: Publisher<Ipc, [u8], ()>,
    bell: Option<Notifier<Ipc>>,
    bytes: usize,
}

#[no_mangle]
pub extern "C" fn new_sender(spec: &Spec) -> Box<Sender> {
    let (messages, bells) = open(spec);
    let publisher = messages
        .publisher_builder()
        .initial_max_slice_len(spec.bytes)
        .max_loaned_samples(spec.loans)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered);
    Box::new(Sender {
        publisher: publisher.create().unwrap(),
        bell: bells.map(|bells| bells.notifier_builder().create().unwrap()),
        bytes: spec.bytes,
    })
}
#[no_mangle]
pub extern "C" fn delete_sender(_: Box<Sender>) {}

#[no_mangle]
pub unsafe extern "C" fn loan(sender: &Sender, loan: *mut Loan) -> *mut c_void {
    loan.write(sender.publisher.loan_slice_uninit(sender.bytes).unwrap());
    (*loan).payload_mut().as_mut_ptr() as *mut c_void
}
#[no_mangle]
pub unsafe extern "C" fn drop_loan(loan: *mut Loan) {
    loan.drop_in_place();
}
#[no_mangle]
pub unsafe extern "C" fn publish(sender: &Sender, loan: *mut Loan) {
    loan.read().assume_init().send().unwrap();
    if let Some(bell) = &sender.bell {
        bell.notify().unwrap();
    }
}
