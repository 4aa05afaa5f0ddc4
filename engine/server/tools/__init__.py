"""Tool calls: into prompts, out of answers, in the formats that models were taught."""
