//! A fleet made of recorded pages: every recorded target stands on many hosts, and its pages follow
//! each other at a chosen interval.
//!
//! Values are taken as recorded, so they keep the likeness and the noise of real exporters; the copies
//! of a target differ in their labels only, which makes labels more regular than those of real fleets.

use crate::recording::Recording;
use chronolith_model::LabelsBuilder;
use chronolith_model::append::{AppendBatch, BatchSeries, Sample, SeriesKey};
use chronolith_wire::exposition::{Entry, Format, Parser};
use chronolith_wire::remote_write::v1;
use std::collections::HashMap;

/// How far apart two neighbouring hosts are in the recording. A prime, so that they meet late.
const PAGES_BETWEEN_HOSTS: usize = 53;

/// What is sent.
#[derive(Debug)]
pub struct Fleet {
    targets: Vec<Target>,
    hosts: u32,
}

/// One recorded target.
#[derive(Debug, Default)]
struct Target {
    job: String,
    /// Labels of each series as the page has them.
    series: Vec<LabelsBuilder>,
    /// One row per page, one value per series; `None` where the page lacks it.
    pages: Vec<Vec<Option<f64>>>,
}

/// When and how a fleet is sent.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Time of the first scrape, milliseconds.
    pub start: i64,
    /// Between the scrapes of a target, milliseconds.
    pub interval: i64,
    /// How many scrapes.
    pub scrapes: u32,
    /// Series (of one sample each) in a request.
    pub samples_per_request: usize,
}

impl Fleet {
    /// Reads a recording and puts each of its targets on `hosts` hosts.
    ///
    /// # Errors
    /// If a page does not parse.
    pub fn load(recording: &Recording, hosts: u32) -> Result<Self, String> {
        let mut targets: Vec<Target> = Vec::new();
        let mut known: Vec<HashMap<Vec<u8>, usize>> = Vec::new();
        for page in recording.pages() {
            let at = targets.iter().position(|target| target.job == page.job).unwrap_or_else(|| {
                targets.push(Target { job: page.job.to_owned(), ..Target::default() });
                known.push(HashMap::new());
                targets.len() - 1
            });
            read_page(&mut targets[at], &mut known[at], page.body)
                .map_err(|e| format!("{}: {e}", page.job))?;
        }
        if targets.is_empty() {
            return Err("the recording holds no page".to_owned());
        }
        Ok(Self { targets, hosts })
    }

    /// Series of the whole fleet.
    pub fn n_series(&self) -> usize {
        self.targets.iter().map(|target| target.series.len()).sum::<usize>() * self.hosts as usize
    }

    /// Pages of the target that has fewest.
    pub fn n_pages(&self) -> usize {
        self.targets.iter().map(|target| target.pages.len()).min().unwrap_or(0)
    }

    /// The part of the fleet that connection `connection` of `connections` sends, as requests in the
    /// order of time: `send` gets each, with its number of samples.
    ///
    /// # Errors
    /// The first error of `send`.
    pub fn requests(
        &self,
        schedule: &Schedule,
        (connection, connections): (u32, u32),
        send: &mut dyn FnMut(&AppendBatch<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let hosts: Vec<u32> = (0..self.hosts).filter(|host| host % connections == connection).collect();
        // Labels are encoded once, as a sender that keeps its series would.
        let encoded: Vec<Vec<Vec<Vec<u8>>>> = hosts
            .iter()
            .map(|&host| self.targets.iter().map(|target| encode_labels(target, host)).collect())
            .collect();
        for scrape in 0..schedule.scrapes {
            let mut batch = AppendBatch { decode: v1::decode_labels, ..AppendBatch::default() };
            for (&host, encoded) in hosts.iter().zip(&encoded) {
                for (number, (target, encoded)) in self.targets.iter().zip(encoded).enumerate() {
                    // Each target is scraped at an offset of its own.
                    let spread = i64::from(host) * 7919 + number as i64 * 104_729;
                    let timestamp = schedule.start
                        + i64::from(scrape) * schedule.interval
                        + spread.rem_euclid(schedule.interval);
                    // And is at another place of the recording: copies that are equal at every scrape
                    // would compress as no fleet does.
                    let page = (scrape as usize + host as usize * PAGES_BETWEEN_HOSTS) % target.pages.len();
                    let page = &target.pages[page];
                    for (value, labels) in page.iter().zip(encoded) {
                        let Some(value) = *value else { continue };
                        let at = batch.samples.len() as u32;
                        batch.samples.push(Sample { timestamp, value, start_timestamp: 0 });
                        batch.series.push(BatchSeries {
                            key: SeriesKey::Encoded(labels),
                            samples: at..at + 1,
                            histograms: 0..0,
                            exemplars: 0..0,
                        });
                        if batch.samples.len() == schedule.samples_per_request {
                            send(&batch)?;
                            batch.samples.clear();
                            batch.series.clear();
                        }
                    }
                }
            }
            if !batch.samples.is_empty() {
                send(&batch)?;
            }
        }
        Ok(())
    }
}

fn read_page(target: &mut Target, known: &mut HashMap<Vec<u8>, usize>, body: &[u8]) -> Result<(), String> {
    let mut row = vec![None; target.series.len()];
    let mut parser = Parser::new(body, Format::Text);
    while let Some(entry) = parser.next_entry().map_err(|e| e.to_string())? {
        let Entry::Series(series) = entry else { continue };
        let at = match known.get(series.raw) {
            Some(&at) => at,
            None => {
                let at = target.series.len();
                known.insert(series.raw.to_vec(), at);
                target.series.push(series.labels().map_err(|e| e.to_string())?.to_builder());
                row.push(None);
                at
            }
        };
        row[at] = Some(series.value);
    }
    target.pages.push(row);
    Ok(())
}

fn encode_labels(target: &Target, host: u32) -> Vec<Vec<u8>> {
    target
        .series
        .iter()
        .map(|labels| {
            let mut labels = labels.clone();
            labels.set("job", &target.job).set("instance", &format!("host-{host:05}.example.org:9100"));
            let mut encoded = Vec::new();
            v1::put_labels(&mut encoded, labels.iter());
            encoded
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_share_the_fleet_and_each_series_is_in_order() {
        let mut target = Target { job: "node".into(), ..Target::default() };
        let mut known = HashMap::new();
        read_page(&mut target, &mut known, b"a 1\nb{x=\"y\"} 2\n").unwrap();
        read_page(&mut target, &mut known, b"a 3\nc 4\n").unwrap();
        let fleet = Fleet { targets: vec![target], hosts: 3 };
        assert_eq!(fleet.n_series(), 9);
        let schedule = Schedule { start: 1_000_000, interval: 15_000, scrapes: 2, samples_per_request: 2 };
        let mut samples: HashMap<Vec<u8>, Vec<(i64, f64)>> = HashMap::new();
        for connection in 0..2 {
            fleet
                .requests(&schedule, (connection, 2), &mut |batch| {
                    assert!(batch.samples.len() <= 2);
                    for series in &batch.series {
                        let SeriesKey::Encoded(labels) = series.key else { panic!("series are encoded") };
                        let sample = batch.samples[series.samples.start as usize];
                        samples.entry(labels.to_vec()).or_default().push((sample.timestamp, sample.value));
                    }
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(samples.len(), 9);
        assert_eq!(samples.values().map(Vec::len).sum::<usize>(), 3 * 4);
        assert!(samples.values().all(|s| s.windows(2).all(|pair| pair[0].0 < pair[1].0)));
    }
}
