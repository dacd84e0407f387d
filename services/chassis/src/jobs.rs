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
        metrics::JOB_INTERVAL.set([job.name], job.every.as_secs_f64());
        succeeded(job.name);
        tasks.spawn(job.name, async move {
            let mut wait = job.every.mul_f64(rand::random_range(0.0..1.0));
            while all.pause(wait).await {
                let span = tracing::info_span!("job", otel.name = %format_args!("job {}", job.name), job = job.name);
                let outcome = match (job.run)().instrument(span).await {
                    Ok(()) => {
                        succeeded(job.name);
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

/// Notes the time from which an alert counts.
fn succeeded(name: &str) {
    metrics::JOB_LAST.set([name], OffsetDateTime::now_utc().unix_timestamp() as f64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Form, render};

    #[tokio::test]
    async fn a_job_that_never_succeeds_is_known_with_its_interval_and_its_start() {
        let (tasks, began) = (Tasks::new(), OffsetDateTime::now_utc().unix_timestamp());
        let (told, mut failed) = tokio::sync::mpsc::unbounded_channel();
        let fail = move || {
            let told = told.clone();
            async move {
                told.send(()).ok();
                Err(Fault::Internal("planned".into()))
            }
        };
        spawn(&tasks, vec![Job::new("test-fails", Duration::from_millis(20), fail)]);
        for _ in 0..3 {
            failed.recv().await.unwrap();
        }
        let text = render(Form::Classic);
        assert!(text.contains("mercato_job_interval_seconds{task=\"test-fails\"} 0.02\n"), "{text}");
        let series = "mercato_job_last_success_timestamp_seconds{task=\"test-fails\"} ";
        let last: f64 = text.lines().find_map(|line| line.strip_prefix(series)).unwrap().parse().unwrap();
        let runs = "mercato_job_runs_total{task=\"test-fails\",outcome=\"error\"} ";
        assert!(last >= began as f64 && text.contains(runs) && !text.contains("task=\"test-fails\",outcome=\"ok\""), "{text}");
        tasks.stop();
        assert!(tasks.drain(Duration::from_secs(60)).await);
    }
}
