//! Periodic jobs. Every instance runs them, so a job must be safe when several run at once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use time::OffsetDateTime;
use tracing::Instrument as _;

use crate::error::Fault;
use crate::metrics;
use crate::tasks::Tasks;

/// What a job runs at each tick.
pub type JobFn = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// Something done again and again.
#[derive(Clone)]
pub struct Job {
    /// For logs and metrics.
    pub name: &'static str,
    /// From the end of one run to the start of the next, give or take a tenth.
    pub every: Duration,
    /// One run. It must bound its own time; an error is logged and the next run comes as planned.
    pub run: JobFn,
}

impl Job {
    /// A job from a closure that makes the future of one run.
    pub fn new<F, R>(name: &'static str, every: Duration, run: F) -> Job
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        Job { name, every, run: Arc::new(move || Box::pin(run())) }
    }
}

/// Starts one task per job. The first run comes after a random part of the interval.
pub fn spawn(tasks: &Tasks, jobs: Vec<Job>) {
    for job in jobs {
        let all = tasks.clone();
        tasks.spawn(job.name, async move {
            let mut wait = job.every.mul_f64(rand::random_range(0.0..1.0));
            while all.pause(wait).await {
                let span = tracing::info_span!("job", otel.name = %format_args!("job {}", job.name), job = job.name);
                let outcome = match (job.run)().instrument(span).await {
                    Ok(()) => {
                        metrics::JOB_LAST.set([job.name], OffsetDateTime::now_utc().unix_timestamp() as f64);
                        "ok"
                    }
                    Err(error) => {
                        tracing::warn!(job = job.name, %error, "job failed");
                        "error"
                    }
                };
                metrics::JOB_RUNS.one([job.name, outcome]);
                wait = job.every.mul_f64(rand::random_range(0.9..1.1));
            }
        });
    }
}
