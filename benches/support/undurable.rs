//! The service without what makes it durable: the same source, task and sink on as many threads, but nothing is written to disk. Its
//! publisher throws the order journal away; no snapshot begins.

use firstseen::config::Config;
use firstseen::detector::Detector;
use firstseen::finding::severity::Privileged;
use firstseen::kafka::admin::{Admin, TopicSettings};
use firstseen::kafka::sink::{PublishError, Sink, SinkLimits};
use firstseen::kafka::source::{self, SourceConfig, SourceEvent};
use firstseen::service::course::{Course, Timing, reader};
use firstseen::service::publisher::Work;
use firstseen::service::{Shared, kafka_settings};
use firstseen::state::snapshot::Positions;
use firstseen::task::{Format, Published, Task};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running pipeline.
pub(crate) struct Undurable {
    pub(crate) shared: Shared,
    stop: crossbeam_channel::Sender<()>,
    task: JoinHandle<()>,
}

impl Undurable {
    pub(crate) fn start(config: &Config) -> Undurable {
        let shared = Shared::default();
        let kafka = kafka_settings(config);
        let admin = Admin::new(&kafka, Duration::from_secs(10)).unwrap();
        for topic in [&config.output.findings_topic, &config.output.dead_letter_topic] {
            admin.ensure_topic(topic, TopicSettings { partitions: 4, retention: None, create: true }).unwrap();
        }
        let settings = config.detector_settings();
        let format = Format {
            findings_topic: config.output.findings_topic.clone(),
            dead_letter_topic: config.output.dead_letter_topic.clone(),
            settings: settings.clone(),
            privileged: Privileged::none(),
            suppression: Default::default(),
        };
        let task = Task::new(Detector::new(settings), format, Positions::new(), Vec::new(), Published::default());
        let (work, work_out) = crossbeam_channel::bounded(16);
        let sink = Sink::lenient_for(&config.output.dead_letter_topic, &kafka, SinkLimits::default()).unwrap();
        let publisher = std::thread::Builder::new().name("publisher".into()).spawn(move || publish(&sink, &work_out)).unwrap();
        let skew = config.input.max_clock_skew;
        let source = source::start(SourceConfig::new(kafka, config.input.topics.clone()), reader(skew, skew)).unwrap();
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let seen = shared.clone();
        // Nothing is ever copied, so nobody listens for pieces.
        let (pieces, _) = crossbeam_channel::unbounded();
        let timing = Timing { snapshot_interval: Duration::MAX, idle_delay: None, copy: 0 };
        let mut course = Course::new(task, shared.clone(), timing, work, pieces, 0, false);
        let task = move || {
            while stopped.try_recv() != Err(crossbeam_channel::TryRecvError::Disconnected) {
                let now = Instant::now();
                match source.events.recv_timeout(Duration::from_millis(100)) {
                    Ok(SourceEvent::Messages(messages)) => {
                        course.messages(&messages, now).unwrap();
                        seen.consumed.fetch_add(messages.len() as u64, Ordering::AcqRel);
                    }
                    Ok(event) => assert!(course.event(event, now).unwrap().is_none(), "there is nothing to wait for"),
                    Err(_) => {}
                }
            }
            source.stop();
            drop(course);
            publisher.join().unwrap();
        };
        let task = std::thread::Builder::new().name("task".into()).spawn(task).unwrap();
        Undurable { shared, stop, task }
    }

    /// Ends once everything is acknowledged.
    pub(crate) fn stop(self) {
        drop(self.stop);
        self.task.join().unwrap();
    }
}

fn publish(sink: &Sink, work: &crossbeam_channel::Receiver<Work>) {
    let take = || sink.deliveries().try_iter().for_each(|delivery| assert_eq!(delivery.result.err(), None));
    for work in work {
        let Work::Step { publications, .. } = work else { continue };
        for publication in publications {
            let mut outgoing = publication.outgoing;
            while let Err(refused) = sink.publish(outgoing) {
                let PublishError::Full(back) = refused else { panic!("{refused:?}") };
                outgoing = *back;
                let _ = sink.deliveries().recv_timeout(Duration::from_millis(50));
            }
        }
        take();
    }
    sink.flush(Duration::from_secs(30)).unwrap();
    take();
}
