"""What everything else stands on: errors, records, files, provenance, progress. No torch, no other folder of ours."""
