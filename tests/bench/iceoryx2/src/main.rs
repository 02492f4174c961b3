// iceoryx2 at the works of zerocp_bench: answers each line of its input with nanoseconds.
//
// iceoryx2_bench loan_release PLACE BYTES HELD THREADS
// iceoryx2_bench ping_pong|stream PLACE BYTES sleeping|polling touched|untouched
use iceoryx2::port::{
    listener::Listener, notifier::Notifier, publisher::Publisher, subscriber::Subscriber,
};
use iceoryx2::prelude::*;
use std::sync::{atomic::AtomicBool, atomic::AtomicU64, atomic::Ordering::*, Arc};
use std::time::{Duration, Instant};
use std::{env, error::Error, fs, hint, io, os::fd::AsRawFd, process, ptr, thread};

type Ipc = ipc::Service;
type Fallible<T> = Result<T, Box<dyn Error>>;
type Channel = iceoryx2::service::port_factory::publish_subscribe::PortFactory<Ipc, [u8], ()>;
const END: u64 = u64::MAX;
const THINK_NS: f64 = 20e3; // before an answer to somebody who is to sleep

fn pin(processor: usize) {
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set);
    }
}

fn ns(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64
}

fn service(node: &Node<Ipc>, name: &str, queue: usize) -> Fallible<Channel> {
    let service = node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<[u8]>();
    Ok(service
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(queue)
        .open_or_create()?)
}

fn publisher(service: &Channel, bytes: usize, loans: usize) -> Fallible<Publisher<Ipc, [u8], ()>> {
    let publisher = service
        .publisher_builder()
        .initial_max_slice_len(bytes)
        .max_loaned_samples(loans);
    Ok(publisher
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()?)
}

fn loan_round(
    publisher: &Publisher<Ipc, [u8], ()>,
    bytes: usize,
    held: usize,
) -> Fallible<Vec<f64>> {
    let (begin, mut batches, mut slots) = (Instant::now(), vec![], Vec::with_capacity(held));
    let times = 1000_usize.div_ceil(held);
    while ns(begin) < 2e6 || batches.len() < 3 {
        let start = Instant::now();
        for _ in 0..times {
            for _ in 0..held {
                slots.push(hint::black_box(publisher.loan_slice_uninit(bytes)?));
            }
            slots.clear();
        }
        batches.push(ns(start) / (times * held) as f64);
    }
    Ok(batches)
}

// One thread's; the second one only keeps the first company.
fn loans(
    place: &str,
    bytes: usize,
    held: usize,
    mut each: impl FnMut(Vec<f64>) -> Fallible<bool>,
) -> Fallible<()> {
    let node = NodeBuilder::new().create::<Ipc>()?;
    let publisher = publisher(&service(&node, place, 1)?, bytes, held + 1)?;
    while each(loan_round(&publisher, bytes, held)?)? {}
    Ok(())
}

fn loan_release(place: &str, bytes: usize, held: usize, threads: usize) -> Fallible<()> {
    let busy = Arc::new(AtomicBool::new(false)); // the first one is in a round
    if threads == 2 {
        let (busy, place) = (busy.clone(), format!("{place}/2"));
        thread::spawn(move || {
            pin(1);
            let rest = |_| {
                while !busy.load(Acquire) {
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(true)
            };
            loans(&place, bytes, held, rest).unwrap();
        });
    }
    pin(0);
    let mut wanted = false; // the times of the first round, which nobody asked for, warm up
    loans(place, bytes, held, |times| {
        busy.store(false, Release);
        let more = answer(if wanted { Some(times) } else { None })?;
        busy.store(threads == 2, Release);
        thread::sleep(Duration::from_millis(2 * (threads as u64 - 1))); // until the second one has seen it
        wanted = true;
        Ok(more)
    })
}

// Prints the times, then waits for the next line. False at the end of the input.
fn answer(times: Option<Vec<f64>>) -> Fallible<bool> {
    if let Some(times) = times {
        println!(
            "{}",
            times
                .iter()
                .map(f64::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        );
    }
    Ok(io::stdin().read_line(&mut String::new())? != 0)
}

// In a file that both ends map, a cache line each.
const WANTED: usize = 0; // 1: the other end works, 0: it rests
const STATE: usize = 1; // 0: it is not there yet, 1: it rests, 2: it works
const TAKEN: usize = 2; // a stream's last message

fn shared(place: &str) -> Fallible<&'static [[AtomicU64; 8]; 3]> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(format!("{place}/iceoryx2"))?;
    file.set_len(4096)?;
    let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
    let mapped = unsafe { libc::mmap(ptr::null_mut(), 4096, access, libc::MAP_SHARED, fd, 0) };
    assert_ne!(mapped, libc::MAP_FAILED);
    Ok(unsafe { &*mapped.cast() })
}

struct Link {
    out: Publisher<Ipc, [u8], ()>,
    input: Subscriber<Ipc, [u8], ()>,
    bell: Notifier<Ipc>,
    ear: Listener<Ipc>,
    bytes: usize,
    sleeping: bool,
    touched: bool,
}

impl Link {
    fn new(node: &Node<Ipc>, words: &[String], end: usize) -> Fallible<Link> {
        let names = [format!("{}/ping", words[1]), format!("{}/pong", words[1])];
        let bytes: usize = words[2].parse()?;
        let queue = if bytes > 1 << 20 { 4 } else { 128 };
        let events = [0, 1].map(|i| {
            node.service_builder(&names[i].as_str().try_into().unwrap())
                .event()
                .open_or_create()
        });
        let [ping, pong] = events;
        let (to, from) = if end == 0 {
            (ping?, pong?)
        } else {
            (pong?, ping?)
        };
        Ok(Link {
            out: publisher(&service(node, &names[end], queue)?, bytes, 2)?,
            input: service(node, &names[1 - end], queue)?
                .subscriber_builder()
                .create()?,
            bell: to.notifier_builder().create()?,
            ear: from.listener_builder().create()?,
            bytes,
            sleeping: words[3] == "sleeping",
            touched: words[4] == "touched",
        })
    }
    fn send(&self, value: u64) -> Fallible<()> {
        let mut sample = self.out.loan_slice_uninit(self.bytes)?;
        let bytes = sample.payload_mut().as_mut_ptr() as *mut u8;
        unsafe {
            if self.touched {
                ptr::write_bytes(bytes, value as u8, self.bytes);
            }
            (bytes as *mut u64).write_unaligned(value);
            sample.assume_init().send()?;
        }
        if self.sleeping {
            self.bell.notify()?;
        }
        Ok(())
    }
    fn take(&self) -> Fallible<Option<u64>> {
        let Some(sample) = self.input.receive()? else {
            return Ok(None);
        };
        let bytes = sample.payload();
        for at in (64..if self.touched { self.bytes } else { 0 }).step_by(64) {
            hint::black_box(bytes[at]);
        }
        Ok(Some(u64::from_ne_bytes(bytes[..8].try_into()?)))
    }
    fn receive(&self) -> Fallible<u64> {
        loop {
            match self.take()? {
                Some(value) => return Ok(value),
                None if self.sleeping => drop(self.ear.blocking_wait(|_| {})?),
                None => hint::spin_loop(),
            }
        }
    }
    fn think(&self) {
        let start = Instant::now();
        while self.sleeping && ns(start) < THINK_NS {
            hint::spin_loop();
        }
    }
    fn trip(&self, value: u64) -> Fallible<f64> {
        let start = Instant::now();
        self.think();
        self.send(value)?;
        let back = self.receive()?;
        assert_eq!(value, back);
        Ok(ns(start) - if self.sleeping { 2.0 * THINK_NS } else { 0.0 })
    }
}

fn other_end(words: &[String]) -> Fallible<()> {
    pin(1);
    let (shared, node) = (shared(&words[1])?, NodeBuilder::new().create::<Ipc>()?);
    let link = Link::new(&node, words, 1)?;
    loop {
        shared[STATE][0].store(1, Release);
        while shared[WANTED][0].load(Acquire) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        shared[STATE][0].store(2, Release);
        while shared[WANTED][0].load(Relaxed) == 1 {
            let value = if link.sleeping {
                Some(link.receive()?)
            } else {
                link.take()?
            };
            match value {
                None => continue,
                Some(END) => return Ok(()),
                Some(value) if words[0] == "stream" => shared[TAKEN][0].store(value, Relaxed),
                Some(value) => {
                    link.think();
                    link.send(value)?;
                }
            }
        }
    }
}

fn link_rounds(words: &[String]) -> Fallible<()> {
    pin(0);
    let (shared, node) = (shared(&words[1])?, NodeBuilder::new().create::<Ipc>()?);
    let link = Link::new(&node, words, 0)?;
    let mut other = process::Command::new(env::current_exe()?)
        .args(words)
        .arg("other_end")
        .spawn()?;
    let turn = |wanted: u64| {
        shared[WANTED][0].store(wanted, Release);
        while shared[STATE][0].load(Acquire) != wanted + 1 {
            hint::spin_loop();
        }
    };
    turn(0);
    let mut sent = 0;
    let mut batch = |count: u64| -> Fallible<f64> {
        let start = Instant::now();
        if words[0] == "ping_pong" {
            sent += 1;
            return link.trip(sent);
        }
        for _ in 0..count {
            sent += 1;
            link.send(sent)?;
        }
        while shared[TAKEN][0].load(Relaxed) != sent {
            hint::spin_loop();
        }
        Ok(ns(start) / count as f64)
    };
    let mut times = None;
    while answer(times)? {
        turn(1);
        let count = (1e6 / batch(4)?.max(1.0)).clamp(8.0, 2000.0) as u64;
        let (start, mut some) = (Instant::now(), vec![]);
        while some.len() < 2000
            && (ns(start) < 3e6 || some.len() < if words[0] == "stream" { 1 } else { 3 })
        {
            some.push(batch(count)?);
        }
        if !link.sleeping {
            turn(0);
        }
        times = Some(some);
    }
    shared[WANTED][0].store(1, Release);
    link.send(END)?;
    other.wait()?;
    Ok(())
}

fn main() -> Fallible<()> {
    set_log_level(LogLevel::Error);
    let words: Vec<String> = env::args().skip(1).collect();
    match words.as_slice() {
        [work, place, bytes, held, threads] if work == "loan_release" => {
            loan_release(place, bytes.parse()?, held.parse()?, threads.parse()?)
        }
        [_, _, _, _, _] => link_rounds(&words),
        [_, _, _, _, _, _] => other_end(&words),
        _ => Err("see the first lines of main.rs".into()),
    }
}
