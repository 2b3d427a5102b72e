-- What the role of the workers may do in the report store: add records and close runs. It cannot change or delete an
-- image, a score, a failure, a review or a promotion. The tables belong to another role, which runs
-- `inspection db upgrade`, and afterwards this file, in the report store's database. Repeating it changes nothing.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO inspection_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO inspection_worker;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO inspection_worker;
GRANT INSERT ON image, score, region, shadow, failure, drift, release, review, promotion, scoring_run TO inspection_worker;
GRANT UPDATE ON scoring_run TO inspection_worker;
GRANT INSERT, UPDATE, DELETE ON lease TO inspection_worker;
