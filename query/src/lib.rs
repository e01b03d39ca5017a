//! PromQL: parser, plan and an engine built of columns.
